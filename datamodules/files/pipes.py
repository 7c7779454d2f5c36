"""Audio from pipes, such as ``/dev/stdin`` or ``<(command)`` of a shell."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from pathlib import Path

from datamodules.errors import DataError

_lock = threading.Lock()
_copies: dict[tuple[int, int], Path] = {}


def seekable(path: Path) -> Path:
    """Return a path that can be opened many times and read from any position.

    What comes out of a pipe is copied once into a temporary file, which is deleted at the end of
    the program: decoders seek, and a song is opened for its header and again for its samples.

    Args:
        path: A file or pipe; other paths are returned as they are.

    Raises:
        DataError: The pipe cannot be read, or the disk of temporary files is full.
    """
    try:
        status = path.stat() if path.is_fifo() else None
    except (OSError, ValueError):
        status = None  # whoever opens it reports the reason
    if status is None:
        return path
    with _lock:
        key = (status.st_dev, status.st_ino)
        if key not in _copies:
            _copies[key] = _copy(path)
        return _copies[key]


def _copy(path: Path) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="stemlab-pipe-")
    atexit.register(folder.cleanup)
    copy = Path(folder.name) / path.name
    try:
        with path.open("rb") as pipe, copy.open("wb") as file:
            shutil.copyfileobj(pipe, file, 2**20)
    except OSError as error:
        folder.cleanup()
        raise DataError(
            f"{path}: cannot be copied from the pipe to {folder.name} ({error.strerror}); make "
            "room there, or set TMPDIR to another folder"
        ) from error
    return copy
