"""Differences between configs."""

from __future__ import annotations

from typing import Any

from lightning_modules.comparison.settings import (
    differences,
    flatten,
    relevant_settings,
    settings_key,
)


def config(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 4,
            "logger": {"class_path": "WandbLogger", "init_args": {"save_dir": "a"}},
            "callbacks": [{"class_path": "x.A"}, {"class_path": "B", "init_args": {"n": 1}}],
        },
        "data": {"init_args": {"seed": 0, "root": "/here", "sources": ["vocals", "other"]}},
        "model": {"class_path": "UNet", "init_args": {"mask": None, "scheduler": {}}},
    }
    for key, value in changes.items():
        *parts, last = key.split("__")
        part = settings
        for name in parts:
            part = part[name]
        part[last] = value
    return settings


def test_flattened_keys() -> None:
    assert flatten(config()) == {
        "seed_everything": 0,
        "trainer.max_epochs": 4,
        "trainer.logger.class_path": "WandbLogger",
        "trainer.logger.init_args.save_dir": "a",
        "trainer.callbacks": ["A", "B"],
        "trainer.callbacks[A].class_path": "x.A",
        "trainer.callbacks[B].class_path": "B",
        "trainer.callbacks[B].init_args.n": 1,
        "data.init_args.seed": 0,
        "data.init_args.root": "/here",
        "data.init_args.sources": ["vocals", "other"],
        "model.class_path": "UNet",
        "model.init_args.mask": None,
        "model.init_args.scheduler": {},
    }
    assert "trainer.logger.class_path" not in relevant_settings(config())


def test_seeds_paths_and_loggers_are_ignored() -> None:
    same = config(
        seed_everything=7,
        data__init_args__seed=7,
        data__init_args__root={"/there": 1.0},
        trainer__logger=False,
        trainer__default_root_dir="/b",
    )
    assert settings_key(same) == settings_key(config())
    assert differences({"a": config(), "b": same}) == {}
    assert settings_key(config(trainer__max_epochs=5)) != settings_key(config())
    # Other seeds are ordinary settings.
    assert settings_key(config(model__init_args__seed=1)) != settings_key(config())


def test_differences_of_values() -> None:
    changed = config(
        trainer__max_epochs=5, model__init_args__mask="ratio", model__init_args__depth=3
    )
    assert differences({"one": config(), "two": changed}) == {
        "trainer.max_epochs": {"one": "4", "two": "5"},
        "model.init_args.mask": {"one": "null", "two": "ratio"},
        "model.init_args.depth": {"one": "-", "two": "3"},
    }


def test_differences_of_classes() -> None:
    """An additional callback is one difference, without its arguments; order is ignored."""
    more = config(
        trainer__callbacks=[
            {"class_path": "Stop", "init_args": {"patience": 3}},
            {"class_path": "B", "init_args": {"n": 2}},
            {"class_path": "x.A"},
        ]
    )
    assert differences({"one": config(), "two": more}) == {
        "trainer.callbacks": {"one": '["A", "B"]', "two": '["Stop", "B", "A"]'},
        "trainer.callbacks[B].init_args.n": {"one": "1", "two": "2"},
    }
    augmented = config(data__init_args__augmentations=[{"class_path": "Gain"}])
    augmented["data"]["class_path"] = plain_class = "Data"
    plain = config(data__init_args__augmentations=[], data__class_path=plain_class)
    assert differences({"one": plain, "two": augmented}) == {
        "data.init_args.augmentations": {"one": "[]", "two": '["Gain"]'}
    }
    other = {"class_path": "Demucs", "init_args": {"mask": "none", "depth": 6}}
    assert differences({"one": config(), "two": config(model=other)}) == {
        "model.class_path": {"one": "UNet", "two": "Demucs"},
        "model.init_args.mask": {"one": "null", "two": "none"},
    }
    twice = [{"class_path": "A", "init_args": {"n": n}} for n in (1, 2)]
    found = flatten({"steps": [*twice, "C"]})
    assert found["steps"] == ["A", "A", "C"]
    assert found["steps[A 2].init_args.n"] == 2
