"""Other projects' weights files, read without executing code from them, and their sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files.source_names import check_source_names
from datamodules.tracks.layouts import STEMS
from lightning_modules.base.description import CheckpointError, one_line
from lightning_modules.checkpoints.limits import load_plain


def our_order(names: Iterable[str]) -> list[str]:
    """Sort sources into this project's order; others follow in the given order."""
    return sorted(names, key=lambda name: STEMS.index(name) if name in STEMS else len(STEMS))


def read_weights(path: Path) -> Any:
    """Read the contents of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, or contains executable code.
    """
    try:
        return load_plain(path)
    except Exception as error:  # invalid pickles raise errors of any type
        refused = re.search(r"WeightsUnpickler error: (.*)", str(error))
        reason = one_line(ValueError(refused[1]) if refused else error)
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason:.120}); copy or download it again, or "
            "save its state dict with the package"
        ) from error


def integer_setting(path: Path, settings: Mapping[str, Any], name: str, default: int) -> int:
    """Return an integer from the settings of a file; a float such as 44100.0 is accepted.

    Raises:
        CheckpointError: It is none.
    """
    value = settings.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(
            f"{path}: its {name} is {value!r:.80}; an integer above 0 was expected: correct it, or "
            "download the file again"
        )
    return value


def source_names(path: Path, names: Any) -> list[str]:
    """Return the names of sources in a file.

    Raises:
        CheckpointError: They are no names for sources.
    """
    try:
        return check_source_names(names)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from error
