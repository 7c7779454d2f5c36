"""Plans of interruptions: which signal is sent to which rank, and when."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass

from lightning_modules.endurance.markers import (
    ENDING,
    PHASES,
    SAVING,
    START_UP,
    TRAINING,
    VALIDATION,
)
from lightning_modules.runtime import signals

_INTERRUPTIONS = (3, 8)
# As many kills as stops.
_SIGNAL_WEIGHTS = {signal.SIGKILL: len(signals.STOP)} | dict.fromkeys(signals.STOP, 1)
_PHASE_WEIGHTS = {START_UP: 3, TRAINING: 4, VALIDATION: 4, SAVING: 5, ENDING: 1}
# Longest delay after the phase was entered, seconds: about the length of the phase.
_DELAYS = {START_UP: 8.0, TRAINING: 0.1, VALIDATION: 0.1, SAVING: 0.01, ENDING: 0.1}


@dataclass(frozen=True)
class Interruption:
    """A planned interruption of one start.

    Attributes:
        number: The signal.
        phase: When it is sent: in this phase,
        visit: in its n-th occurrence,
        delay: so many seconds after its beginning.
        rank: The only process that receives it, if it is known by then; None for all.
        pause: Seconds between the kill of a rank and that of all other processes.
    """

    number: signal.Signals
    phase: str
    visit: int
    delay: float
    rank: int | None
    pause: float


@dataclass(frozen=True)
class Hit:
    """A signal that was sent: its name, and the phase of the first rank at that moment."""

    number: str
    phase: str


def plan(random: random.Random) -> list[Interruption]:
    """Draw the interruptions of a trial."""
    return [_interruption(random) for _ in range(random.randint(*_INTERRUPTIONS))]


def _interruption(random: random.Random) -> Interruption:
    (number,) = random.choices(list(_SIGNAL_WEIGHTS), list(_SIGNAL_WEIGHTS.values()))
    (phase,) = random.choices(list(_PHASE_WEIGHTS), list(_PHASE_WEIGHTS.values()))
    return Interruption(
        number=number,
        phase=phase,
        visit=random.randint(1, 3) if phase in (TRAINING, VALIDATION, SAVING) else 1,
        delay=random.uniform(0, _DELAYS[phase]),
        rank=random.choice([None, 0, 1]),
        pause=random.uniform(0, 1),
    )


assert set(_PHASE_WEIGHTS) == set(_DELAYS) == set(PHASES)
