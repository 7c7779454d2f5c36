"""Settings of the trainer that would do nothing, or something else."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import Namespace

from lightning_modules.configuration.messages import SettingError
from lightning_modules.configuration.trainer_settings import check_callbacks, check_trainer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", -2),
        ("max_steps", 0),
        ("max_time", "00:00:00:00"),
        ("max_time", {"hours": 0}),
        ("min_epochs", -1),
        ("limit_train_batches", 0),
        ("limit_train_batches", 0.0),
        ("limit_train_batches", 1.5),
        ("log_every_n_steps", -1),
        ("log_every_n_steps", 0),
        ("check_val_every_n_epoch", 0),
        ("val_check_interval", 0),
        ("val_check_interval", -0.5),
        ("accumulate_grad_batches", 0),
        ("gradient_clip_val", -1),
        ("num_nodes", 0),
        ("num_sanity_val_steps", -2),
        ("overfit_batches", 1),
        ("reload_dataloaders_every_n_epochs", 1),
        ("use_distributed_sampler", True),
        ("default_root_dir", "x"),
        ("gradient_clip_algorithm", "norm"),
        ("min_epochs", 11),
    ],
)
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"trainer\.{name}"):
        check_trainer({"max_epochs": 10, name: value}, "fit")


def test_accepted() -> None:
    settings = {
        "max_epochs": -1,
        "max_steps": 5,
        "max_time": "00:12:00:00",
        "limit_train_batches": 1,
        "limit_val_batches": 0,
        "val_check_interval": 0.25,
        "check_val_every_n_epoch": None,
        "overfit_batches": 0.0,
        "gradient_clip_val": 0,
        "num_sanity_val_steps": -1,
        "use_distributed_sampler": False,
        "min_epochs": 3,
    }
    check_trainer(settings, "fit")
    check_trainer({"max_time": {"hours": 1}, "gradient_clip_val": 5.0}, "fit")


@pytest.mark.parametrize(("subcommand", "name"), [("validate", "val"), ("predict", "predict")])
def test_a_subcommand_that_would_do_nothing(subcommand: str, name: str) -> None:
    with pytest.raises(SettingError, match=f"limit_{name}_batches is 0"):
        check_trainer({f"limit_{name}_batches": 0}, subcommand)


def callback(name: str, **arguments: Any) -> Namespace:
    return Namespace({"class_path": name, "init_args": Namespace(arguments)})  # type: ignore[no-untyped-call]


OURS, LIGHTNING = "lightning_modules.callbacks", "pytorch_lightning.callbacks"
SCORES = callback(f"{OURS}.bss_eval.BSSEval")


@pytest.mark.parametrize(
    ("callbacks", "trainer", "words"),
    [
        ([SCORES, SCORES], {}, "BSSEval 2 times"),
        (
            [callback(f"{OURS}.ema.EMA"), callback(f"{OURS}.best_ema.BestEMA")],
            {},
            "EMA and BestEMA, but only one",
        ),
        ([callback(f"{LIGHTNING}.EarlyStopping", monitor="val/lss")], {}, "val/lss"),
        ([callback(f"{LIGHTNING}.EarlyStopping", monitor="val/sdr")], {}, "val/sdr"),
        ([SCORES, callback(f"{LIGHTNING}.EarlyStopping", monitor="val/sdr/flute")], {}, "flute"),
        ([callback(f"{OURS}.checkpoints.Checkpoints", monitor="sdr")], {}, "Checkpoints"),
        (
            [callback(f"{LIGHTNING}.EarlyStopping", monitor="val/loss")],
            {"limit_val_batches": 0},
            "limit_val_batches is 0",
        ),
    ],
)
def test_refused_callbacks(callbacks: list[Namespace], trainer: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_callbacks({"callbacks": callbacks, **trainer}, ["vocals", "other"])


def test_accepted_callbacks() -> None:
    stopping = [
        callback(f"{LIGHTNING}.EarlyStopping", monitor=name)
        for name in ("val/loss", "train/loss/vocals", "val/usdr", "val/sdr/other")
    ]
    best = callback(f"{OURS}.checkpoints.Checkpoints", monitor="val/sdr")
    check_callbacks({"callbacks": [SCORES, best, *stopping]}, ["vocals", "other"])
    check_callbacks({"callbacks": [best]}, ["vocals"])
    foreign = callback("mine.Metrics"), callback(f"{LIGHTNING}.EarlyStopping", monitor="mine")
    check_callbacks({"callbacks": foreign}, ["vocals"])
