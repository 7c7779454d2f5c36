"""Worker processes of data loaders: signals, exit, errors and death."""

from __future__ import annotations

import atexit
import multiprocessing
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from datamodules.deaths import LIKELY

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def ignore_signals(worker: int) -> None:
    """Ignore stop signals in a worker; the main process ends its workers itself."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block stop signals in this thread and in processes that it starts, which must unblock them.

    SLURM and terminals send them to all processes, and would kill one that is just starting.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _kill_workers() -> None:
    """Kill workers that still exist at exit, for instance referenced by a traceback.

    Python would send them SIGTERM, which they ignore, and wait forever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class WorkerDiedError(RuntimeError):
    """A worker died; the message says how, likely causes and what to do."""


_OTHERS = "--data.init_args.num_workers=0 shows its errors"
_MEMORY = "give the job more memory, or lower --data.init_args.num_workers or batch_size"
# By the name of the signal, which torch reports.
_CAUSES = {
    signal.strsignal(number): f"{cause}: {_MEMORY}" if number == signal.SIGKILL else cause
    for number, cause in LIKELY.items()
}
# What torch reported about workers that died.
_deaths: list[str] = []


def defer_worker_deaths() -> None:
    """Note the death of a worker for ``raise_worker_death``.

    torch's handler of SIGCHLD raises an error wherever the main process is, so also within an
    optimiser step or while a checkpoint is written. It is installed once, and lost when Lightning
    restores all handlers at the end of a run. Loaders notice a dead worker themselves, but not how
    it died, and at latest five seconds after its batch is due.
    """
    previous = signal.getsignal(signal.SIGCHLD)
    is_installed = getattr(previous, "__module__", "") == __name__
    if is_installed or threading.current_thread() is not threading.main_thread():
        return

    # Here, since scoring processes import this module and need no torch.
    from torch._C import _error_if_any_worker_fails

    def note(number: int, frame: FrameType | None) -> None:
        try:
            _error_if_any_worker_fails()
            if callable(previous):
                previous(number, frame)
        except RuntimeError as error:
            _deaths.append(str(error))

    signal.signal(signal.SIGCHLD, note)


def raise_worker_death() -> None:
    """Raise if a worker has died since the last call."""
    if _deaths:
        text = _deaths.pop()
        _deaths.clear()
        raise _death(text)


def explain_worker_error(error: BaseException) -> Exception | None:
    """Turn torch's error about a worker into one for the user; None for other errors.

    A worker that raised an error passes it on, with its traceback as the message; the new error
    has the same type and only the original message.
    """
    text = str(error)
    if isinstance(error, WorkerDiedError) or "DataLoader worker" not in text:
        return None
    if not isinstance(error, Exception) or not text.startswith("Caught "):
        return _death(_deaths.pop() if _deaths else text)
    kind = type(error)
    builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}"
    own = text.rpartition(f"\n{name}: ")[2].strip()
    return kind(own)


def _death(text: str) -> WorkerDiedError:
    """Build the error from torch's text, such as ``DataLoader worker (pid 7) is killed by ...``."""
    killed = re.search(r"is killed by signal: ([^.]+)\.", text)
    how = f"was ended by a signal ({killed[1]})" if killed else "ended unexpectedly"
    if code := re.search(r"exit code (\d+)", text):
        how = f"ended with status {code[1]}"
    process = re.search(r"pid(?:\(s\))? ([\d, ]+)", text)
    cause = _CAUSES.get(killed[1], _OTHERS) if killed else _OTHERS
    if not killed and not code:  # torch does not always learn of the signal
        cause = "; ".join([*_CAUSES.values(), _OTHERS])
    return WorkerDiedError(
        f"a process that loads data{f' ({process[0]})' if process else ''} {how}: "
        f"{cause}. Resume with --ckpt_path last"
    )
