"""Stop signals: handlers that set a flag, which the training checks between steps.

SLURM sends SIGUSR1 before the time limit and SIGTERM at a preemption, to every
process of the job and at any moment; a terminal that is closed sends SIGHUP. Within
a step the state cannot be saved, and a collective in a handler waits for ever if
another rank is at another place. So the handler only sets a flag. Nothing heavy is
imported here, because the handlers must be installed before torch is imported.
"""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

CTRL_C, TERMINATE, TIME_LIMIT, HANG_UP = STOP = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGHUP,
)

received: int | None = None
"""Number of the stop signal that this process received last, or None."""
_former: dict[int, Any] = {}


def install_handlers(*numbers: int) -> None:
    """Record signals in ``received`` instead of being ended by them."""
    for number in numbers:
        if number == HANG_UP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # started by nohup
        _former.setdefault(number, signal.signal(number, _note))


def restore_handlers() -> None:
    """Restore the former handlers and clear ``received``."""
    global received
    while _former:
        number, handler = _former.popitem()
        signal.signal(number, handler)
    received = None


def ignore(*numbers: int) -> None:
    """Ignore signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def exit_status() -> int:
    """Exit status of a process that was stopped and has saved its state.

    In a SLURM job 75, EX_TEMPFAIL of sysexits.h: "failed for now, try again"; elsewhere,
    and after Ctrl-C, 128 plus the signal's number, as shells report it.
    """
    number = TERMINATE if received is None else received
    if in_slurm_job() and number != CTRL_C:
        return os.EX_TEMPFAIL
    return 128 + number


def in_slurm_job() -> bool:
    """Whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in os.environ


def _note(number: int, frame: FrameType | None) -> None:
    global received
    again, received = received is not None, number
    if number == CTRL_C:
        if again:
            raise KeyboardInterrupt
        print(
            "\nCtrl-C: saving after this batch or validation; press again to stop at once.",
            flush=True,
        )
    elif number == TERMINATE and again and not in_slurm_job():
        # SLURM may send it twice; a user who does wants to stop at once.
        raise SystemExit(128 + number)
    elif number == HANG_UP:
        _drop_output()


def outlive_readers() -> None:
    """Continue without output when the readers of stdout and stderr end, such as ``tee``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file
            number, is_own = stream.fileno(), stream is getattr(sys, f"__{name}__")
            if is_own and stat.S_ISFIFO(os.fstat(number).st_mode):
                stream.flush()
                pipe = io.BufferedWriter(_Pipe(number, "w", closefd=False))
                by_line = stream.line_buffering or stream.write_through
                lasting = io.TextIOWrapper(
                    pipe, stream.encoding, stream.errors, line_buffering=by_line
                )
                setattr(sys, name, lasting)


class _Pipe(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            return len(memoryview(data).cast("B"))


def _drop_output() -> None:
    """Send what is still printed to the null device, unless it goes to a file.

    Writing to a terminal that was closed, or to a ``tee`` that ended with it, would raise an
    error before the state is saved.
    """
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
                _discard(descriptor)


def _discard(descriptor: int) -> None:
    """Discard what is written to a descriptor from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
