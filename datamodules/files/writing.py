"""Errors of writing files: the system's reason, and the free space on the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import soundfile

from datamodules.errors import DataError

_UNFINISHED = ".tmp"


# Error numbers of the system.
FULL = (errno.ENOSPC, errno.EDQUOT)
# With less free space a write has failed for lack of it, whatever a library says, bytes.
_ALMOST_NONE = 2**20


class WritingError(DataError):
    """A file could not be written; the message has the reason and the free space."""


class EncoderError(Exception):
    """ffmpeg failed; the message is its last line."""


@contextmanager
def writing(final: Path, partial: Path) -> Iterator[None]:
    """Convert errors of writing a file to a ``WritingError``.

    Args:
        final: The file, for the message.
        partial: What has been written of it.
    """
    try:
        yield
    # AssertionError: soundfile has written fewer samples than it should.
    except (soundfile.SoundFileError, AssertionError, EncoderError, OSError) as error:
        raise writing_error(final, partial, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: give a temporary name, and move that file to ``path`` at the end.

    The folder is created. After an error or a kill the former file is unchanged.

    Raises:
        WritingError: The system refuses to write.
    """
    unfinished = path.with_name(f".{path.name[:100]}.{os.getpid()}{_UNFINISHED}")
    with writing(path, unfinished):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of ``replacing`` in a folder and the folders in it."""
    for path in folder.rglob(f".*{_UNFINISHED}"):
        with suppress(OSError):
            path.unlink()


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise ``DataError`` if a disk has less free space than needed, bytes.

    Args:
        folder: A folder on the disk, which need not exist yet.
        needed: Bytes.
        what: What needs them, for the message.
    """
    if needed > shutil.disk_usage(_existing(folder)).free:
        raise DataError(
            f"{what} at least {needed / 1e6:,.1f} MB, temporary files included, in {folder}; "
            f"{_room(folder)}: free space there, or give another folder"
        )


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether an error, also of a library that does not say so, is that of a full disk.

    Args:
        folder: The folder that was written to.
        error: The error; what could be written is not deleted yet.
    """
    if not isinstance(error, Exception):
        return False  # such as Ctrl-C
    said = isinstance(error, OSError) and error.errno in FULL
    said = said or any(os.strerror(number) in str(error) for number in FULL)
    disk = os.statvfs(folder)
    has_inodes = disk.f_favail or not disk.f_files  # some file systems do not count them
    return said or not has_inodes or shutil.disk_usage(folder).free < _ALMOST_NONE


def writing_error(final: Path, partial: Path, error: Exception) -> WritingError:
    """Build the error for a file that could not be written; arguments as for ``writing``."""
    code, reason = _reason(partial, error)
    advice = "free space there, or give another folder"
    if code == errno.EFBIG:
        advice = "raise the limit of file sizes (`ulimit -f`), or give another folder"
    elif code not in FULL:
        advice = "check the disk and its permissions, or give another folder"
    return WritingError(
        f"{final}: could not be written ({reason}; {_room(partial.parent)}); {advice}"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _room(folder: Path) -> str:
    """Free space on the disk of a folder, as text."""
    existing = _existing(folder).resolve()
    disk = next(path for path in (existing, *existing.parents) if os.path.ismount(path))
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB are free on the disk {disk}"


def _reason(partial: Path, error: Exception) -> tuple[int | None, str]:
    """Error number and message of the system, which libsndfile and ffmpeg do not pass on.

    The system repeats it when more is written to the same file.
    """
    if not isinstance(error, OSError) or not error.errno:
        try:
            with partial.open("r+b") as file:
                file.seek(0, os.SEEK_END)
                file.write(bytes(2**16))
            return None, str(error).strip() or "unknown reason"
        except OSError as repeated:
            error = repeated
    return error.errno, error.strerror or str(error)
