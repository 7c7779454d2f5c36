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
        config: Nested mappings. Lists that hold mappings, such as callbacks, count as mappings
            from number to element; others stay whole.

    Returns:
        Dotted key -> value.
    """
    found: dict[str, Any] = {}
    _flatten("", config, found)
    return found


def _flatten(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            _flatten(f"{key}.{name}" if key else str(name), item, found)
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
        of the configs. Empty if they try the same.
    """
    known = {name: tried(config) for name, config in configs.items()}
    keys = list(dict.fromkeys(key for config in known.values() for key in config))
    rows = {
        key: {
            name: _text(config[key]) if key in config else ABSENT for name, config in known.items()
        }
        for key in keys
    }
    return {key: row for key, row in rows.items() if len(set(row.values())) > 1}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
