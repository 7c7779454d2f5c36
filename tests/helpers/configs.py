"""Models and settings of the shipped configs."""

from __future__ import annotations

import json
from pkgutil import resolve_name
from typing import Any

import yaml

from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain, config_names
from tests.helpers.command_line import REPOSITORY


def settings_of(*names: str) -> dict[str, dict[str, Any]]:
    """What configs on top of each other say of model, optimiser, data and trainer."""
    merged: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
    for name in names:
        config = yaml.safe_load((REPOSITORY / "configs" / f"{name}.yaml").read_text())
        for part in ("model", "data"):
            merged[part] |= config.get(part, {}).get("init_args", {})
        merged["trainer"] |= config.get("trainer", {})
    return merged


NAMES = config_names()

ROOTS = [name for name in NAMES if len(chain(name)) == 2]


def tiny_settings(name: str) -> list[str]:
    """Arguments that make the model of a config as small as possible."""
    root = yaml.safe_load(chain(name)[1].read_text())
    tiny = resolve_name(root["model"]["class_path"]).tiny
    return [f"--model.init_args.{key}={json.dumps(value)}" for key, value in tiny.items()]


def tiny_model(name: str) -> SourceSeparator:
    """The model of a config, as small as possible."""
    return build_model(name, tiny_settings(name)).model
