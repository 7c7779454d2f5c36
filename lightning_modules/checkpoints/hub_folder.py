"""Checkpoints as folders in the layout of the Hugging Face Hub.

``model.safetensors`` holds the weights, in a format without executable code; ``config.json`` the
model's class and arguments. ``load_separator`` reads the folder. ``export`` adds the card that the
Hub displays, see ``interop.model_card``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lightning_modules.base.description import (
    CONFIG,
    KEY,
    WEIGHTS,
    CheckpointError,
    describe,
    one_line,
    read_description,
)
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import check_weights


def write_folder(model: SourceSeparator, folder: Path) -> None:
    """Write weights and description of a separator to a folder, which is created if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    description = describe(model)
    # safetensors supports neither strides nor shared memory.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    # save_file restricts access to the owner.
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)


def read_folder(folder: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a separator's folder.

    Args:
        folder: A folder that ``write_folder`` wrote, or a copy.
        map_location: Device of the tensors.

    Returns:
        Description and ``state_dict``, as in a checkpoint file.

    Raises:
        CheckpointError: A file is missing or invalid.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: has no {name}; a folder that `lightning_modules.tools.export` wrote "
                f"with --format safetensors was expected, with {CONFIG} and {WEIGHTS}"
            )
    try:
        contents = {KEY: json.loads((folder / CONFIG).read_text(encoding="utf-8"))}
        read_description(contents)
    except Exception as error:  # the file can contain anything
        raise CheckpointError(
            f"{folder / CONFIG}: class_path and init_args of a separator were expected "
            f"({one_line(error)}); copy the file again, or export the model again"
        ) from error
    try:
        weights = load_file(folder / WEIGHTS, device=str(torch.device(map_location)))
    except Exception as error:
        raise CheckpointError(
            f"{folder / WEIGHTS}: cannot be read as safetensors ({one_line(error)}); copy the file "
            "again: it is truncated, corrupted or a Git LFS pointer"
        ) from error
    check_weights(folder / WEIGHTS, weights)
    return {**contents, "state_dict": weights}
