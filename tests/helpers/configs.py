"""Models and settings of the shipped configs."""

from __future__ import annotations

import json
from pkgutil import resolve_name
from typing import Any

import yaml

from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain, config_names

NAMES = config_names()
# Configs of architectures, without their variants.
ROOTS = [name for name in NAMES if len(chain(name)) == 2]


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """Merge the arguments of model and data, and the trainer's, of a config and its parents."""
    merged: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
    for path in chain(name)[1:]:
        config = yaml.safe_load(path.read_text())
        for part in ("model", "data"):
            merged[part] |= config.get(part, {}).get("init_args", {})
        merged["trainer"] |= config.get("trainer", {})
    return merged


def class_of(name: str) -> type[SourceSeparator]:
    """The class of a config's model."""
    root = yaml.safe_load(chain(name)[1].read_text())
    kind: type[SourceSeparator] = resolve_name(root["model"]["class_path"])
    return kind


def tiny_settings(name: str) -> list[str]:
    """Command-line arguments that set the small sizes of a config's class."""
    tiny = class_of(name).tiny
    return [f"--model.init_args.{key}={json.dumps(value)}" for key, value in tiny.items()]


def tiny_model(name: str) -> SourceSeparator:
    """Build a config's model with the small sizes of its class."""
    return build_model(name, tiny_settings(name)).model
