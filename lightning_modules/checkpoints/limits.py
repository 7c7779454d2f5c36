"""Checks of files that anybody may have made, before their contents take memory."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from lightning_modules.base.description import CheckpointError, one_line

# Parameters that a model may have beyond those in its file.
_SPARE_PARAMETERS = 2**20


def load_plain(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """Read a file that ``torch.save`` wrote, without executing code from it.

    Raises:
        Exception: Of any type, if the file is invalid.
    """
    if zipfile.is_zipfile(path):  # older versions of torch wrote other files
        _check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the kind of file, for authors of torch
        return torch.load(path, map_location=map_location, weights_only=True)


def _check_archive(path: Path) -> None:
    """Raise ``ValueError`` if a zip file's parts are larger than the file (a zip bomb)."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError(f"its parts would have {size:,} bytes")


def check_weights(path: Path, state: Any) -> None:
    """Check that a state dict has dense tensors by name, all of whose numbers are in the file.

    Raises:
        CheckpointError: It does not.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path}: its weights are of type {type(state).__name__}; a state dict was expected: "
            "use another file"
        )
    for name, tensor in state.items():
        if fault := _fault(name, tensor):
            raise CheckpointError(
                f"{path}: its weights {name!r:.80} {fault}; a dense tensor was expected: use "
                "another file"
            )


def _fault(name: Any, tensor: Any) -> str:
    """Return what is wrong with an entry of a state dict; empty if nothing is."""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        return f"are of type {type(tensor).__name__}"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return "are sparse, quantised or complex"
    # Strides of 0 show one number as many.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"have the shape {tuple(tensor.shape)}, but fewer numbers"
    return ""


@contextmanager
def building_from(path: Path, size: int, problem: str) -> Iterator[None]:
    """Build a model from a file's contents, which may have arguments of any type and value.

    Modules with more parameters than the file can contain are refused while they are built.
    The memory of a new tensor is used only when numbers are written to it, which is later.

    Args:
        path: The file or folder, for the message.
        size: Size of the file with the weights, bytes.
        problem: What is wrong if building fails, for the message.

    Raises:
        CheckpointError: Anything failed.
    """
    left = size + _SPARE_PARAMETERS

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else max(1, parameter.numel())
        if left < 0:
            raise ValueError("it describes a model with more weights than the file contains")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: {problem}: {one_line(error)}") from error
    finally:
        hook.remove()
