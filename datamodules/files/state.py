"""State of a file on disk, used to detect that the file was changed or replaced."""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.files.audio import AnyPath

# File times have a resolution of up to two seconds (FAT): a file that was changed more recently
# may change again with the same times.
_SETTLED_NS = 2_000_000_000


class State(NamedTuple):
    """Size, times and inode of a file; while they are unchanged, so is its content.

    Attributes:
        size: Size, bytes.
        modified_ns: Time of the last change of its content (mtime), which users can set.
        inode: Inode number.
        changed_ns: Time of the last change of any kind (ctime), which users cannot set; 0 if it is
            too recent to rely on.
    """

    size: int
    modified_ns: int
    inode: int
    changed_ns: int

    @staticmethod
    def of(status: os.stat_result) -> State:
        """Convert a result of ``os.stat``."""
        latest = max(status.st_mtime_ns, status.st_ctime_ns)
        settled = latest < time.time_ns() - _SETTLED_NS
        return State(
            status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns if settled else 0
        )

    def is_same(self, other: State) -> bool:
        """Compare without ctime, which new hard links change; for a file that is in use."""
        return self[:3] == other[:3]


def state(path: AnyPath) -> State:
    """State of a file; raises a ``DataError`` if the file does not exist or cannot be read."""
    try:
        status = os.stat(path)
    except OSError as error:  # such as a dangling link
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); restore or remove it"
        ) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # To open a pipe would wait for ever.
        raise DataError(f"{path}: is a pipe or device, expected a file; replace or remove it")
    return State.of(status)


def check_same(path: AnyPath, expected: State) -> None:
    """Raise a ``DataError`` if a file was removed, replaced or changed."""
    try:
        status = os.stat(path)
        # Same as ``is_same`` but three times as fast, because this is called for every crop.
        same = (status.st_size, status.st_mtime_ns, status.st_ino) == expected[:3]
    except OSError:
        same = False
    if not same:
        raise changed_error(path)


def changed_error(path: AnyPath) -> DataError:
    """The error for a file that has changed since it was checked."""
    return DataError(
        f"{path}: was removed, replaced or changed while it was in use; restore it and resume "
        "with --ckpt_path last"
    )
