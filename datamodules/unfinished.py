"""Temporary folders for files that are not complete yet, also removed after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".unfinished"
_LOCK = ".lock"
_OLD_SECONDS = 24 * 3600


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Create a hidden folder in ``parent`` for files that are moved out of it when complete.

    It is deleted at the end. A process that is killed leaves it behind; the next call for the same
    ``parent`` deletes it, see `remove_leftovers`. The name is short, so that a file in it may have
    any name that its target may have.

    Args:
        parent: An existing folder, on the disk of the targets.
    """
    remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=".", dir=parent))
    try:
        with (folder / _LOCK).open("w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Renamed after locking: `remove_leftovers` never finds it unlocked.
            folder = folder.rename(f"{folder}{SUFFIX}")
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Delete the unfinished folders in ``parent`` whose processes were killed.

    The kernel releases the lock of a process that ends. Where there are no locks, a folder is
    deleted when it is a day old.
    """
    for folder in parent.glob(f".*{SUFFIX}"):
        # `parent` may be read-only, or shared with users who made links to this user's files.
        if folder.is_symlink() or (folder / _LOCK).is_symlink():
            continue
        with suppress(OSError), (folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process is running
            except OSError:
                if folder.stat().st_mtime > time.time() - _OLD_SECONDS:
                    continue
            shutil.rmtree(folder)


def sync(folder: Path) -> None:
    """Write a folder with its files to disk, so that a crash after a rename loses nothing."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
