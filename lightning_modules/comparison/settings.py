"""Differences between the configs of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Seeds and paths, which do not make runs different systems.
SEEDS = ("seed_everything", "data.init_args.seed")
_PLACES = frozenset(
    {"root", "run_dir", "save_dir", "dirpath", "default_root_dir", "ckpt_path", "cache_dir"}
)
_LOGGER = "trainer.logger."
ABSENT = "-"


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config to dotted keys.

    Args:
        config: Nested mappings. A list of classes, such as callbacks, becomes the list of their
            names; their arguments are under ``callbacks[Name]``, independent of their position.

    Returns:
        Dotted key -> value.
    """
    found: dict[str, Any] = {}
    _flatten("", config, found)
    return found


def _flatten(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            _flatten(f"{key}.{name}" if key else str(name), item, found)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        names: list[Any] = []
        for item in value:
            if not isinstance(item, Mapping) or "class_path" not in item:
                names.append(item)
                continue
            name = str(item["class_path"]).rpartition(".")[2]
            twice = names.count(name)
            names.append(name)
            owner = f"{key}[{name}{f' {twice + 1}' if twice else ''}]"
            _flatten(owner, {"class_path": item["class_path"]} | dict(item), found)
        found[key] = names
    else:
        found[key] = value


def relevant_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened settings without seeds, paths and loggers."""
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in SEEDS
        and not _PLACES.intersection(key.split("."))
        and not f"{key}.".startswith(_LOGGER)
    }


def data_root(config: Mapping[str, Any]) -> str:
    """Path of a run's data, or JSON of several paths with their shares."""
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    return _text(arguments.get("root")) if isinstance(arguments, Mapping) else ABSENT


def settings_key(config: Mapping[str, Any]) -> str:
    """Text that is the same for configs that differ only by seeds, paths and loggers."""
    return json.dumps(relevant_settings(config), sort_keys=True, default=str)


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Find the settings in which configs differ.

    Args:
        configs: Name -> config.

    Returns:
        Dotted key -> name -> value as text, ``-`` if the config lacks the key; in the order of the
        configs. Arguments of a class that a config does not use are not listed.
    """
    known = {name: relevant_settings(config) for name, config in configs.items()}
    rows: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for config in known.values() for key in config):
        holders = [config for config in known.values() if key in config]
        values = {name: _text(config[key]) for name, config in known.items() if key in config}
        classes = {_class_of(key, config) for config in holders}
        lacking = [config for config in known.values() if key not in config]
        missing = any(_class_of(key, config) in classes for config in lacking)
        if len(set(values.values())) > 1 or missing:
            rows[key] = {name: values.get(name, ABSENT) for name in known}
    return rows


def _class_of(key: str, config: Mapping[str, Any]) -> Any:
    """Class that a key is an argument of, or that it names; None if there is none."""
    if key.endswith("].class_path"):
        return config.get(key, ABSENT)
    owner, argument, _ = key.rpartition(".init_args.")
    return config.get(f"{owner}.class_path", ABSENT) if argument else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
