"""Signals that ask a run to stop: noted at once, acted on where the state is whole.

SLURM sends SIGUSR1 ahead of the time limit and SIGTERM at a preemption, to every
process of the job and at any moment. In the middle of a step the weights are in
no state to be saved, and a collective inside a handler waits for ever where
another rank is elsewhere. So a handler sets a flag and nothing else. Nothing
heavy is imported here: the handlers must be there before torch's import begins.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

CTRL_C, TERMINATE, TIME_LIMIT = STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

received: int | None = None
"""Number of the signal that asked this process to stop, if one has."""
_former: dict[int, Any] = {}


def install_handlers(*numbers: int) -> None:
    """Note signals from now on, instead of being ended by them.

    Args:
        *numbers: Which ones.
    """
    for number in numbers:
        former = signal.signal(number, _note)
        _former.setdefault(number, former)


def restore_handlers() -> None:
    """Give the signals back to those who had them before, and forget what was received."""
    global received
    while _former:
        number, handler = _former.popitem()
        signal.signal(number, handler)
    received = None


def ignore(*numbers: int) -> None:
    """Take no notice of signals: what is left to do is being done, or is another's to do.

    Args:
        *numbers: Which ones.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def exit_status() -> int:
    """What a process ends with that was asked to stop and has saved its state.

    Returns:
        75 in a SLURM job: "failed for now, try again" in sysexits.h; elsewhere what shells
        report for the signal.
    """
    number = TERMINATE if received is None else received
    if in_slurm_job() and number != CTRL_C:
        return os.EX_TEMPFAIL
    return 128 + number


def in_slurm_job() -> bool:
    """Whether SLURM started this process, or a process above it."""
    return "SLURM_JOB_ID" in os.environ


def _note(number: int, frame: FrameType | None) -> None:
    global received
    again, received = received is not None, number
    if number == CTRL_C:
        if again:
            raise KeyboardInterrupt
        print(
            "\nCtrl-C: saving after this batch, or this validation; once more to stop at once.",
            flush=True,
        )
    elif number == TERMINATE and again and not in_slurm_job():
        # SLURM repeats itself; a person who does so has no more patience.
        raise SystemExit(128 + number)
