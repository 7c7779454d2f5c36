"""Loading of self-contained checkpoints.

A checkpoint is a Lightning checkpoint with one more entry: class and arguments of the model in
plain data. It is read with ``weights_only=True`` and without a config file, and no class from
outside this package is imported. The folders of ``hub_folder`` hold the same contents. The config
of an ensemble, or of another model that consists of trained ones, names their checkpoints.
Published models are loaded by their names.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import DataError
from lightning_modules.base.description import (
    KEY,
    WEIGHTS,
    CheckpointError,
    check_is_there,
    one_line,
    read_description,
)
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.hub_folder import read_folder
from lightning_modules.checkpoints.limits import building_from, check_weights, load_plain
from lightning_modules.configuration.files import ConfigError, part, read_config

# Only separators of this package are imported.
_PACKAGE = "lightning_modules.architectures."
CONFIG_SUFFIXES = (".yaml", ".yml")
# Imported only for names of published models: the importers of other formats need this module.
_INTEROP = "lightning_modules.interop."


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint file without executing code from it.

    Args:
        path: The file.
        map_location: Device of the tensors.

    Returns:
        The checkpoint's contents.

    Raises:
        CheckpointError: The file is missing, truncated, or not a separator's checkpoint.
    """
    path = Path(path)
    check_is_there(path)
    try:
        contents = load_plain(path, map_location)
        with zipfile.ZipFile(path) as archive:
            corrupted = archive.testzip()  # verifies the checksums, which torch.load ignores
        if corrupted is not None:
            raise ValueError(f"the checksum of its part {corrupted} is wrong")
    except PermissionError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    except Exception as error:  # changed pickles raise errors of any type
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that cannot be read as a checkpoint "
            f"({one_line(error)}); it is truncated, corrupted or of another type: use "
            "another checkpoint, such as last.ckpt or best.ckpt of the run"
        ) from error
    if not isinstance(contents, dict) or KEY not in contents:
        raise CheckpointError(
            f"{path}: contains no separator; a checkpoint that `lightning_modules.cli fit` wrote "
            "was expected"
        )
    _check_contents(contents, path)
    return contents


def load_separator(path: str | Path, map_location: str | torch.device = "cpu") -> SourceSeparator:
    """Load a trained separator for inference.

    Args:
        path: Checkpoint that ``fit`` wrote, a folder in the layout of the Hugging Face Hub, the
            YAML config of an ensemble, or the name of a published model, such as ``htdemucs``,
            or of a model on the Hub, ``user/name`` or ``user/name@revision``; these are
            downloaded once. An existing file or folder wins over a name.
        map_location: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The file cannot be used, or names a class from outside this package; or
            there is neither a file nor a model of this name.
        DownloadError: The model cannot be downloaded.
    """
    path = Path(path)
    if not path.exists():
        published = importlib.import_module(f"{_INTEROP}published").find(path)
        if published is not None:
            store = importlib.import_module(f"{_INTEROP}model_store")
            separator: SourceSeparator = store.load(published)
            return separator.to(map_location)
        hub = importlib.import_module(f"{_INTEROP}hub")
        if model := hub.find(path):
            path = Path(hub.fetch(model))
    if path.suffix in CONFIG_SUFFIXES:
        return _load_members(path).to(map_location).eval()
    contents = (read_folder if path.is_dir() else read_checkpoint)(path, map_location)
    description = read_description(contents)
    class_path = description["class_path"]
    kind = _trusted_class(class_path, path)
    size = (path / WEIGHTS if path.is_dir() else path).stat().st_size
    with building_from(path, size, f"does not fit {class_path} of this version"):
        model = kind(**description["init_args"])
        model.load_state_dict(contents["state_dict"])
    return model.to(map_location).eval()


def _load_members(path: Path) -> SourceSeparator:
    """Build a model that consists of trained models from its config."""
    check_is_there(path)
    try:
        model = part(read_config(path), "model")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    class_path = model.get("class_path")
    if not isinstance(class_path, str):
        raise CheckpointError(
            f"{path}: has no model.class_path; the config of an ensemble was expected"
        )
    kind = _trusted_class(class_path, path)
    if not kind.loads_weights:
        raise CheckpointError(
            f"{path}: is the config of a {kind.__name__}, without weights; give the checkpoint of "
            "its run"
        )
    try:
        return kind(**part(model, "init_args"))
    except (CheckpointError, DataError):
        raise
    except Exception as error:  # the file can contain anything
        raise CheckpointError(f"{path}: {one_line(error)}") from error


def _check_contents(contents: Mapping[str, Any], path: Path) -> None:
    """Raise unless description and weights have the expected types."""
    check_weights(path, contents.get("state_dict"))
    try:
        read_description(contents)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; use another checkpoint") from error


def from_pretrained(name: str | Path, map_location: str | torch.device = "cpu") -> SourceSeparator:
    """Load a separator from the Hugging Face Hub, or from a folder in its layout.

    Args:
        name: ``user/name`` or ``user/name@revision``, which is downloaded once; or a folder that
            ``lightning_modules.tools.export --format safetensors`` wrote.
        map_location: Device of the model.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: The folder cannot be used, or names a class from outside this package.
        DownloadError: The model cannot be downloaded.
    """
    hub = importlib.import_module(f"{_INTEROP}hub")
    if not Path(name).is_dir() and hub.find(name) is None:
        raise CheckpointError(
            f"{name}: is neither a folder with config.json and model.safetensors nor user/name on "
            "the Hugging Face Hub; use load_separator for a checkpoint file"
        )
    return load_separator(name, map_location)


def _trusted_class(class_path: str, path: str | Path) -> type[SourceSeparator]:
    """Import a separator class if it belongs to this package."""
    module, _, name = class_path.rpartition(".")
    if not module.startswith(_PACKAGE) or not class_path.replace(".", "_").isidentifier():
        shown = repr(class_path)[1:-1]
        raise CheckpointError(
            f"{path}: names the class {shown:.120} from outside this package; it was not imported, "
            "because that could execute any code"
        )
    try:
        kind: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: names the class {class_path}, which this version does not have"
        ) from error
    # Modules of this package also contain names imported from elsewhere.
    ours = isinstance(kind, type) and issubclass(kind, SourceSeparator)
    if not ours or not kind.__module__.startswith(_PACKAGE):
        raise CheckpointError(f"{path}: {class_path} is not a SourceSeparator of this package")
    separator: type[SourceSeparator] = kind
    return separator
