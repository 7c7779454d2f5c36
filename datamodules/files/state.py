"""State of a file on disk, to notice that it was changed or replaced."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.files.audio import AnyPath

# Clocks of file systems tick as rarely as every two seconds (FAT): a file that was changed this
# recently may change again without a trace in its state.
_SETTLED_NS = 2_000_000_000


class State(NamedTuple):
    """What tells a file from another one at its path; other states mean another content.

    Attributes:
        size: Size, bytes.
        modified_ns: Time of the last change of its content, as its owner sets it.
        inode: Its number in the file system.
        changed_ns: Time of the last change of any kind, which nobody sets; 0 if that is too
            recent to rely on.
    """

    size: int
    modified_ns: int
    inode: int
    changed_ns: int

    @staticmethod
    def of(status: os.stat_result) -> State:
        """Take it from what the system tells of a file.

        Args:
            status: Result of ``os.stat``.

        Returns:
            The state.
        """
        latest = max(status.st_mtime_ns, status.st_ctime_ns)
        settled = latest < time.time_ns() - _SETTLED_NS
        return State(
            status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns if settled else 0
        )

    def is_same(self, other: State) -> bool:
        """Whether a file in use is still the one that it was; links to it may come and go.

        Args:
            other: Its other state.

        Returns:
            Whether size, time and number are the same.
        """
        return self[:3] == other[:3]


def state(path: AnyPath) -> State:
    """Tell a file's state.

    Args:
        path: The file.

    Returns:
        The state.

    Raises:
        DataError: The file is not there.
    """
    try:
        return State.of(os.stat(path))
    except OSError as error:  # a dangling link, for one
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), an audio file was expected; restore or "
            "remove it"
        ) from error


def check_same(path: AnyPath, expected: State) -> None:
    """Make sure that a file is the one that was checked before.

    Args:
        path: The file.
        expected: Its state then.

    Raises:
        DataError: It was removed, replaced or changed.
    """
    try:
        status = os.stat(path)
        # As ``is_same``, in a third of the time: this is asked for every crop.
        same = (status.st_size, status.st_mtime_ns, status.st_ino) == expected[:3]
    except OSError:
        same = False
    if not same:
        raise changed(path)


def changed(path: AnyPath) -> DataError:
    """Put it into words that a file is not what it was.

    Args:
        path: The file.

    Returns:
        The error.
    """
    return DataError(
        f"{path}: was removed, replaced or changed while it was in use; restore it and go on "
        "with --ckpt_path last"
    )
