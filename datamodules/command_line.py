"""Shared by all command lines: errors on one line, and checks before the work begins."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import DataError

# Errors raised in these are shown without their class.
_OUR_PACKAGES = ("datamodules", "lightning_modules")
_TRACEBACK = "STEMLAB_TRACEBACK"


def run(work: Callable[[], int], stopped: str = "stopped") -> int:
    """Run a command; print errors on one line.

    Args:
        work: The command; returns the exit status.
        stopped: Message after Ctrl-C.

    Returns:
        The command's exit status, 2 after an error, 130 after Ctrl-C.
    """
    try:
        return work()
    except (OSError, ValueError) as error:
        if os.environ.get(_TRACEBACK):
            traceback.print_exception(error)
        print(f"error: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130


def describe(error: Exception) -> str:
    """Describe an error to the user.

    Args:
        error: The error.

    Returns:
        Its message, without the number of a system error; a library's error with its class and
        how to get a traceback.
    """
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    raised_in = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [type(error).__module__, *raised_in[-1:]]
    if any(module.partition(".")[0] in _OUR_PACKAGES for module in modules):
        return str(error)
    return f"{type(error).__name__}: {error} (set {_TRACEBACK}=1 to see the traceback)"


def count(least: int = 1) -> Callable[[str], int]:
    """Argument type: an integer with a lower bound.

    Args:
        least: The lower bound.

    Returns:
        The type, for ``add_argument``.
    """

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"expected an integer of at least {least}, found {text!r}"
            )
        return number

    return convert


def check_folder(path: Path, option: str) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Args:
        path: The folder.
        option: The option that set it, for the message.

    Raises:
        DataError: A file is in the way, or the folder is not writable.
    """
    existing = next(place for place in (path, *path.parents, Path(".")) if os.path.lexists(place))
    if existing.is_dir() and os.access(existing, os.W_OK):
        return
    fault = "is not writable" if existing.is_dir() else "is not a folder"
    raise DataError(
        f"{option} {path}: {existing} {fault}; expected a writable folder: give another"
    )


def check_file(path: Path, option: str) -> None:
    """Check that a file can be written.

    Args:
        path: The file; its folder need not exist yet.
        option: The option that set it, for the message.

    Raises:
        DataError: It is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise DataError(f"{option} {path}: is a folder, expected the name of a file")
    check_folder(path.parent, option)


def check_free(path: Path, force: bool) -> None:
    """Check that nothing is overwritten without ``--force``.

    Args:
        path: The file or folder to write.
        force: Whether ``--force`` was given.

    Raises:
        FileExistsError: It exists, and ``force`` is false.
    """
    if path.exists() and not force:
        raise FileExistsError(f"{path} already exists; give another name, or --force")
