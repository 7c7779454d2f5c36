"""Checkpoints that stand on their own: what they hold and how they are read.

A checkpoint is an ordinary Lightning checkpoint plus one entry that names the
architecture and its arguments in plain data. So ``weights_only=True`` reads it,
no config file is needed, and nothing outside this package is ever imported.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning_modules.base import SourceSeparator

KEY = "separator"
# Classes named by a checkpoint may come from here and nowhere else.
TRUSTED = ("lightning_modules.", "torch.nn.")
# How a run is trained, not what the model is; reloading needs none of it.
_TRAINING_ARGUMENTS = ("optimizer", "lr_scheduler", "_instantiator", "_class_path")
# What may differ between a checkpoint and the model that goes on from it.
_FREE_ARGUMENTS = ("segment_seconds", "overlap", "chunks_at_once")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names file, finding, expectation, remedy."""


def describe(model: SourceSeparator) -> dict[str, Any]:
    """Say in plain data how to build a model again.

    Args:
        model: The separator.

    Returns:
        ``class_path`` and ``init_args``.
    """
    arguments = {
        name: _plain(value)
        for name, value in dict(model.hparams).items()
        if name not in _TRAINING_ARGUMENTS
    }
    kind = type(model)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint file without running anything in it.

    Args:
        path: The file.
        map_location: Device of the tensors.

    Returns:
        The checkpoint's contents.

    Raises:
        CheckpointError: The file is missing, truncated, or no checkpoint of a separator.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint; {_nearby(path)}")
    try:
        contents = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that cannot be read as a checkpoint "
            f"({reason[:120]}); it is truncated or of another kind: use another checkpoint, "
            "such as last.ckpt or best.ckpt of the run"
        ) from error
    if not isinstance(contents, dict) or KEY not in contents:
        raise CheckpointError(
            f"{path}: holds no separator description; expected a checkpoint that "
            "`lightning_modules.cli fit` wrote"
        )
    return contents


def _nearby(path: Path) -> str:
    found = (
        sorted(str(other) for other in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
    )
    return "there are " + ", ".join(found[:5]) if found else "train one with `fit` first"


def load_separator(path: str | Path, map_location: str | torch.device = "cpu") -> SourceSeparator:
    """Load a trained separator, ready to separate.

    Args:
        path: Checkpoint that ``fit`` wrote.
        map_location: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The file is unusable, or names a class from outside this package.
    """
    from lightning_modules.base import SourceSeparator  # base imports this file

    contents = read_checkpoint(path, map_location)
    description = contents[KEY]
    kind = _trusted_class(str(description["class_path"]), path)
    if not issubclass(kind, SourceSeparator):
        raise CheckpointError(f"{path}: {description['class_path']} is not a SourceSeparator")
    arguments = {
        name: _instantiate(value, path) for name, value in description["init_args"].items()
    }
    try:
        model = kind(**arguments)
        model.load_state_dict(contents["state_dict"])
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: does not fit {description['class_path']} as it is in this version: {error}"
        ) from error
    return model.to(map_location).eval()


def _instantiate(value: Any, path: str | Path) -> Any:
    """Build what ``{class_path: ..., init_args: ...}`` describes, at any depth."""
    if isinstance(value, list):
        return [_instantiate(item, path) for item in value]
    if isinstance(value, dict):
        if "class_path" in value:
            kind = _trusted_class(str(value["class_path"]), path)
            return kind(**_instantiate(value.get("init_args") or {}, path))
        return {name: _instantiate(item, path) for name, item in value.items()}
    return value


def _trusted_class(class_path: str, path: str | Path) -> type:
    if not class_path.startswith(TRUSTED):
        raise CheckpointError(
            f"{path}: names the class {class_path}, which is not from this package; it was not "
            "loaded, because importing it could run anything"
        )
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: names the class {class_path}, which this version does not have"
        ) from error
    if not isinstance(kind, type):
        raise CheckpointError(f"{path}: {class_path} is not a class")
    return kind


def check_same_model(contents: Mapping[str, Any], model: SourceSeparator) -> None:
    """Check that a checkpoint's weights belong into a model.

    Args:
        contents: What ``read_checkpoint`` returned.
        model: The model that would take the weights.

    Raises:
        CheckpointError: Another architecture, or another argument.
    """
    theirs, ours = contents.get(KEY, {}), describe(model)
    if theirs.get("class_path") != ours["class_path"]:
        raise CheckpointError(
            f"the checkpoint is of {theirs.get('class_path', 'an unknown model')}, the config "
            f"builds {ours['class_path']}; use the config that it was trained with"
        )
    differing = [
        f"{name} ({theirs['init_args'].get(name)!r} in the checkpoint, "
        f"{ours['init_args'].get(name)!r} in the config)"
        for name in sorted({*theirs["init_args"], *ours["init_args"]} - set(_FREE_ARGUMENTS))
        if theirs["init_args"].get(name) != ours["init_args"].get(name)
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint was trained with other model arguments: "
            + "; ".join(differing)
            + "; use the config.yaml of its run"
        )
