"""Checkpoints that stand on their own: what they hold and how they are read.

A checkpoint is an ordinary Lightning checkpoint plus one entry that names the
architecture and its arguments in plain data. So ``weights_only=True`` reads it,
no config file is needed, and nothing outside this package is ever imported. The
same holds for the folders of ``hub_folder``, which are checkpoints in another dress.
"""

from __future__ import annotations

import importlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_modules.base.description import (
    KEY,
    CheckpointError,
    check_is_there,
    read_description,
)
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.hub_folder import read_folder

# Classes named by a checkpoint may come from here and nowhere else.
_PACKAGE = "lightning_modules"


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
    check_is_there(path)
    try:
        _check_sums(path)
        contents = torch.load(path, map_location=map_location, weights_only=True)
    except (
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that cannot be read as a checkpoint "
            f"({reason[:120]}); it is truncated, spoilt or of another kind: use "
            "another checkpoint, such as last.ckpt or best.ckpt of the run"
        ) from error
    if not isinstance(contents, dict) or KEY not in contents:
        raise CheckpointError(
            f"{path}: holds no separator description; expected a checkpoint that "
            "`lightning_modules.cli fit` wrote"
        )
    return contents


def _check_sums(path: Path) -> None:
    """Hold a checkpoint against its check sums, which ``torch.load`` does not look at."""
    with zipfile.ZipFile(path) as archive:
        spoilt = archive.testzip()
    if spoilt is not None:
        raise ValueError(f"its part {spoilt} has another check sum than when it was written")


def load_separator(path: str | Path, map_location: str | torch.device = "cpu") -> SourceSeparator:
    """Load a trained separator, ready to separate.

    Args:
        path: Checkpoint that ``fit`` wrote, or a folder of ``hub_folder``.
        map_location: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The file is unusable, or names a class from outside this package.
    """
    path = Path(path)
    contents = (
        read_folder(path, map_location) if path.is_dir() else read_checkpoint(path, map_location)
    )
    description = read_description(contents)
    kind = _trusted_class(str(description["class_path"]), path)
    try:
        model = kind(**description["init_args"])
        model.load_state_dict(contents["state_dict"])
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: does not fit {description['class_path']} as it is in this version: {error}"
        ) from error
    return model.to(map_location).eval()


def from_pretrained(
    folder: str | Path, map_location: str | torch.device = "cpu"
) -> SourceSeparator:
    """Load a separator from a folder in the layout of the Hugging Face Hub.

    Args:
        folder: What ``lightning_modules.tools.export --format safetensors`` wrote, or a copy of
            it, such as one that ``huggingface_hub.snapshot_download`` fetched.
        map_location: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The folder is unusable, or names a class from outside this package.
    """
    if not Path(folder).is_dir():
        raise CheckpointError(
            f"{folder}: is no folder; one with config.json and model.safetensors was expected: "
            "download the model first, or use load_separator for a checkpoint file"
        )
    return load_separator(folder, map_location)


def _trusted_class(class_path: str, path: str | Path) -> type[SourceSeparator]:
    """The separator class of a name, if it is one of this package's own."""
    module, _, name = class_path.rpartition(".")
    if not module.startswith(f"{_PACKAGE}."):
        raise CheckpointError(
            f"{path}: names the class {class_path}, which is not from this package; it was not "
            "loaded, because importing it could run anything"
        )
    try:
        kind: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: names the class {class_path}, which this version does not have"
        ) from error
    # A module of this package also holds names that it imported from elsewhere.
    ours = isinstance(kind, type) and issubclass(kind, SourceSeparator)
    if not ours or not kind.__module__.startswith(f"{_PACKAGE}."):
        raise CheckpointError(f"{path}: {class_path} is not a SourceSeparator of this package")
    separator: type[SourceSeparator] = kind
    return separator
