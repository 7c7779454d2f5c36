"""What the configs of runs differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Where a run lies and what it was drawn from; not what was tried.
SEEDS = ("seed_everything", "data.init_args.seed")
_PLACES = frozenset(
    {"root", "run_dir", "save_dir", "dirpath", "default_root_dir", "ckpt_path", "cache_dir"}
)
_LOGGER = "trainer.logger"
ABSENT = "-"


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Write a config as dotted keys.

    Args:
        config: Nested mappings. A list of classes, such as callbacks, is the list of their names,
            and each one's arguments stand under ``callbacks[Name]``, in whatever place it has.

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


def tried(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a config to what its run tries: without seeds, paths and loggers.

    Args:
        config: The config.

    Returns:
        Dotted key -> value.
    """
    return {
        key: value
        for key, value in flat(config).items()
        if key not in SEEDS
        and not _PLACES.intersection(key.split("."))
        and key != _LOGGER
        and not key.startswith(f"{_LOGGER}.")
    }


def data_root(config: Mapping[str, Any]) -> str:
    """Tell where a run's data lay, which does not tell runs apart but may matter.

    Args:
        config: The config.

    Returns:
        The root, or roots with their shares, as text.
    """
    data = config.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    return _text(arguments.get("root")) if isinstance(arguments, Mapping) else ABSENT


def identity(config: Mapping[str, Any]) -> str:
    """Tell configs apart that differ by more than seeds, paths and loggers.

    Args:
        config: The config.

    Returns:
        A text that is the same for configs that try the same.
    """
    return json.dumps(tried(config), sort_keys=True, default=str)


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Find the settings in which configs differ.

    Args:
        configs: Name -> config.

    Returns:
        Dotted key -> name -> value as text, ``-`` where the config lacks the key; in the order
        of the configs. Empty if they try the same. Arguments that a config lacks because it has
        no such class, or another one, are no difference of their own.
    """
    known = {name: tried(config) for name, config in configs.items()}
    rows: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for config in known.values() for key in config):
        holders = [config for config in known.values() if key in config]
        classes = {_class_of(key, config) for config in holders}
        lacking = [config for config in known.values() if key not in config]
        values = {_text(config[key]) for config in holders}
        missed = any(_class_of(key, config) in classes for config in lacking)
        if len(values) > 1 or missed:
            rows[key] = {
                name: _text(config[key]) if key in config else ABSENT
                for name, config in known.items()
            }
    return rows


def _class_of(key: str, config: Mapping[str, Any]) -> Any:
    """The class that a key is an argument of, or an element's own; None for what has no class."""
    if key.endswith("].class_path"):
        return config.get(key, ABSENT)
    owner, argument, _ = key.rpartition(".init_args.")
    return config.get(f"{owner}.class_path", ABSENT) if argument else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
