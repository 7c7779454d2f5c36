"""Shared by all command lines: errors on one line, and checks before the work begins."""

from __future__ import annotations

import argparse
import atexit
import io
import os
import re
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from datamodules.errors import DataError, did_you_mean

# Errors raised in these are shown without their class.
_OUR_PACKAGES = ("datamodules", "lightning_modules")
_TRACEBACK = "STEMLAB_TRACEBACK"
_BROKEN_PIPE = 128 + signal.SIGPIPE
# Set by `stemlab`, also for the processes that it starts.
_STEMLAB = "STEMLAB_COMMAND"
# Modules whose subcommand of `stemlab` is not their last name.
_SUBCOMMANDS = {
    "lightning_modules.cli": "",
    "lightning_modules.tools.webapp": "web",
    "datamodules.demo": "corpus",
}


def start_as_stemlab() -> None:
    """Let messages and help name the subcommands of ``stemlab`` instead of modules."""
    os.environ[_STEMLAB] = "1"


def program(module: str) -> str:
    """How the user starts a module: ``stemlab separate``, or ``python -m`` and its name."""
    if _STEMLAB not in os.environ:
        return f"python -m {module}"
    name = _SUBCOMMANDS.get(module, module.rpartition(".")[2])
    return f"stemlab {name.replace('import_', 'import ')}".rstrip()


def announce(text: str) -> None:
    """Print a line on stderr if torch is still to be imported, which takes seconds."""
    if "torch" not in sys.modules:
        print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors suggest the option or subcommand that was meant.

    Args:
        module: Module of the command, for the usage; see ``program``.
        keywords: Of ``argparse.ArgumentParser``.
    """

    def __init__(self, module: str = "", **keywords: Any) -> None:
        super().__init__(**({"prog": program(module)} if module else {}) | keywords)

    def error(self, message: str) -> NoReturn:
        """Print the error on one line, with a suggestion, and exit with status 2."""
        suggestion = ""
        if unknown := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            known = re.findall(r"--[\w-]+", self.format_help())
            suggestion = did_you_mean(unknown[1], known)
        elif choice := re.search(r"invalid choice: '(.+)' \(choose from (.+)\)", message):
            suggestion = did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        self.exit(2, f"{self.prog}: error: {message}{suggestion} ({self.prog} --help)\n")


def run(work: Callable[[], int], stopped: str = "stopped") -> int:
    """Run a command and return its exit status; print errors on one line.

    The status is 2 after an error. After Ctrl-C, SIGTERM and SIGHUP it is 128 plus the signal's
    number, ``stopped`` is printed, and unfinished files are deleted. It is 141, without a
    message, if the reader of the output has gone, as in ``| head``.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not UTF-8
    try:
        with _signals_interrupt(), _plain_warnings():
            status = work()
            sys.stdout.flush()
            return status
    except Exception as error:
        return report(error)
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # the terminal may be closed
            print(f"\n{stopped}", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings of our code on one line, and hide those of libraries.

    With ``STEMLAB_TRACEBACK`` set, all are printed as Python does.
    """
    ours = tuple(str(Path(__file__).parents[1] / name) + os.sep for name in _OUR_PACKAGES)

    def show(
        message: Warning | str, category: type[Warning], filename: str, *place: object
    ) -> None:
        if filename.startswith(ours):
            from tqdm import tqdm  # here, because help and mistakes do not need it

            tqdm.write(f"warning: {printable(message)}", sys.stderr)

    with warnings.catch_warnings():
        if not os.environ.get(_TRACEBACK):
            warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``KeyboardInterrupt``, with their number as argument."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise KeyboardInterrupt(number)

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        # SIGHUP is ignored under nohup. Only the main thread can set handlers.
        if signal.getsignal(number) is signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    ]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def report(error: Exception) -> int:
    """Print an error on one line of stderr, with its traceback on request; return the status."""
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        return _BROKEN_PIPE
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    print(f"error: {describe(error)}", file=sys.stderr)
    return 2


@atexit.register
def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more; if so, drop what is still to be written.

    Also called at exit, where Python would print an error.
    """
    with suppress(OSError, ValueError):  # stdout is closed, or no file
        reader = select.poll()
        reader.register(sys.stdout.fileno(), 0)
        if reader.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False


def describe(error: Exception) -> str:
    """An error's message for the user, without the number of a system error.

    A library's error has its class in front, and how to get a traceback. Errors that no input
    should cause leave their traceback in a file, to be reported.
    """
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    message = f"{type(error).__name__}: {error}"
    if _is_ours(type(error).__module__):
        return str(error)
    if not isinstance(error, OSError | ValueError):
        return f"{' '.join(message.split())} ({_save_traceback(error)})"
    raised_in = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    if raised_in and _is_ours(raised_in[-1]):
        return str(error)
    return f"{message} (set {_TRACEBACK}=1 to see the traceback)"


def printable(text: object) -> str:
    """A text on one line: line breaks and control characters, as in names, are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OUR_PACKAGES


def _save_traceback(error: Exception) -> str:
    """Write the traceback of an unexpected error to a file; say where it is."""
    import tempfile

    lines = traceback.format_exception(error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="stemlab-traceback-", suffix=".txt", delete=False
        ) as file:
            file.writelines(lines)
    except OSError:
        return f"unexpected; set {_TRACEBACK}=1 to see the traceback, and report it"
    return f"unexpected; report it with the traceback in {file.name}"


def count(least: int = 1) -> Callable[[str], int]:
    """Argument type for ``add_argument``: an integer with a lower bound."""

    def convert(text: str) -> int:
        with suppress(ValueError):
            if (number := int(text)) >= least:
                return number
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, found {text!r}")

    return convert


def check_folder(path: Path, option: str) -> None:
    """Raise a ``DataError`` if no files can be written to a folder, which need not exist yet.

    ``option`` is what set it, for the message.
    """
    existing = next(place for place in (path, *path.parents, Path(".")) if os.path.lexists(place))
    if existing.is_dir() and os.access(existing, os.W_OK):
        return
    fault = "is not writable" if existing.is_dir() else "is not a folder"
    raise DataError(
        f"{option} {path}: {existing} {fault}; expected a writable folder: give another"
    )


def check_file(path: Path, option: str) -> None:
    """Like `check_folder`, for a file to write, whose folder need not exist yet."""
    if path.is_dir():
        raise DataError(f"{option} {path}: is a folder, expected the name of a file")
    check_folder(path.parent, option)


def check_free(path: Path, force: bool | None = None) -> None:
    """Raise ``FileExistsError`` if a file or folder exists.

    ``force`` is whether ``--force`` was given; None if the command does not have it.
    """
    if os.path.lexists(path) and not force:
        forced = "" if force is None else ", or --force"
        raise FileExistsError(f"{path} already exists; give another name{forced}")
