"""What all command lines share: a mistake is one line, and is told before the work begins."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import DataError

# Their own errors are worded for people.
_OUR_PACKAGES = ("datamodules", "lightning_modules")
_TRACEBACK = "STEMLAB_TRACEBACK"


def run(work: Callable[[], int], stopped: str = "stopped") -> int:
    """Do what a command line asks for.

    Args:
        work: What to do; gives the exit status.
        stopped: What to say after Ctrl-C.

    Returns:
        The work's exit status, 2 for a mistake that a line on stderr explains, 130 after Ctrl-C.
    """
    try:
        return work()
    except (OSError, ValueError) as error:
        if os.environ.get(_TRACEBACK):
            traceback.print_exception(error)
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130


def in_words(error: Exception) -> str:
    """Word an error for the person who has to act on it.

    Args:
        error: The error; of the system's own ones the number is left out.

    Returns:
        The message; of an error that a library raised, with its class and how to see where.
    """
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, and who may read and write it"
    raised_in = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = [type(error).__module__, *raised_in[-1:]]
    if any(place.partition(".")[0] in _OUR_PACKAGES for place in places):
        return str(error)
    return f"{type(error).__name__}: {error} (with {_TRACEBACK}=1 it says where)"


def count(least: int = 1) -> Callable[[str], int]:
    """Make an argument's type: whole numbers from some number on.

    Args:
        least: The smallest of them.

    Returns:
        The type, for ``add_argument``.
    """

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected a number from {least} on, found {text!r}")
        return number

    return convert


def check_folder(path: Path, option: str) -> None:
    """Check that files can be written into a folder, which need not be there yet.

    Args:
        path: The folder.
        option: Where the user gave it, for the message.

    Raises:
        DataError: A file is in the way, or the place may not be written to.
    """
    there = next(place for place in (path, *path.parents, Path(".")) if os.path.lexists(place))
    if there.is_dir() and os.access(there, os.W_OK):
        return
    fault = "may not be written to" if there.is_dir() else "is no folder"
    raise DataError(
        f"{option} {path}: {there} {fault}; a folder that files can be written to was expected: "
        "give another"
    )


def check_file(path: Path, option: str) -> None:
    """Check that a file can be written.

    Args:
        path: The file; its folder need not be there yet.
        option: Where the user gave it, for the message.

    Raises:
        DataError: It is a folder, or cannot be written to where it is.
    """
    if path.is_dir():
        raise DataError(f"{option} {path}: is a folder, the name of a file was expected")
    check_folder(path.parent, option)


def check_free(path: Path, force: bool) -> None:
    """Check that nothing is overwritten unasked.

    Args:
        path: The file or folder that is to be written.
        force: Whether ``--force`` was given.

    Raises:
        FileExistsError: It is there, and was not to be replaced.
    """
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already; give another name, or --force")
