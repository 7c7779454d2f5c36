"""What a loader costs: processor time of all its processes, and time that passes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from datamodules.errors import DataError

Batches = Generator[Any, None, None]
Start = Callable[[int], Batches]
"""Starts a loader with this number of workers; its batches never end, and closing stops it."""

# A row is left out of later rounds when it took so many times the time meant for it.
_PATIENCE = 2


class Measurement(NamedTuple):
    """What one run of a loader took.

    Attributes:
        examples: Number of examples.
        cpu_seconds: Time of the processor, this process and the workers together.
        wall_seconds: Time that passed.
    """

    examples: int
    cpu_seconds: float
    wall_seconds: float


@dataclass
class Measured:
    """What was measured of a loader.

    Attributes:
        runs: Number of workers -> its runs, one a round.
        fault: Why it cannot be measured; empty if it can.
    """

    runs: dict[int, list[Measurement]] = field(default_factory=dict)
    fault: str = ""

    def examples_per_cpu_second(self, workers: int) -> float | None:
        """Median over the rounds; none if it was not measured with so many workers."""
        runs = self.runs.get(workers)
        return statistics.median(run.examples / run.cpu_seconds for run in runs) if runs else None

    def wall_ratio(self, more: int, fewer: int) -> float | None:
        """How many times as much comes in the same time from more workers: median over rounds."""
        pairs = list(zip(self.runs.get(more, []), self.runs.get(fewer, []), strict=False))
        return (
            statistics.median(_per_second(a) / _per_second(b) for a, b in pairs) if pairs else None
        )


def _per_second(run: Measurement) -> float:
    return run.examples / run.wall_seconds


class Entrant(NamedTuple):
    """A loader to be measured.

    Attributes:
        name: Its name.
        prepare: Makes what all its runs share, such as an index of the files.
        workers: With how many workers it runs, one after the other.
    """

    name: str
    prepare: Callable[[], Start]
    workers: Sequence[int]


def measure_all(
    entrants: Sequence[Entrant], batch_size: int, seconds: float, repeats: int, progress: bool
) -> dict[str, Measured]:
    """Measure loaders in turn, round by round, so that a machine that slows down slows all alike.

    Args:
        entrants: The loaders.
        batch_size: Examples in each batch.
        seconds: Processor time of a run, for each worker; at least a batch of each is taken.
        repeats: Number of rounds. A slow loader, whose batches take longer than a run is meant
            to, takes part in as many as fit into twice its share of the time.
        progress: Show a progress bar.

    Returns:
        Name -> what was measured, or why it could not be.
    """
    results = {entrant.name: Measured() for entrant in entrants}
    starts: dict[str, Start] = {}
    spent = dict.fromkeys(results, 0.0)
    steps = [(entrant, n) for _ in range(repeats) for entrant in entrants for n in entrant.workers]
    with tqdm(steps, "measuring", unit="run", disable=not progress, leave=False) as bar:
        for entrant, workers in bar:
            bar.set_postfix_str(f"{entrant.name}, {workers} workers")
            name, measured = entrant.name, results[entrant.name]
            allowed = _PATIENCE * repeats * seconds * sum(max(n, 1) for n in entrant.workers)
            runs = measured.runs.setdefault(workers, [])
            # A round that was begun is finished: its runs are compared with each other.
            begun = len(runs) < max(map(len, measured.runs.values()))
            if measured.fault or (runs and not begun and spent[name] > allowed):
                continue
            try:
                if name not in starts:
                    starts[name] = entrant.prepare()
                runs.append(measure(starts[name], workers, batch_size, seconds))
            except Exception as error:  # whatever another project's code may raise
                measured.fault = _in_a_line(error)
            else:
                spent[name] += runs[-1].cpu_seconds
    return results


def measure(start: Start, workers: int, batch_size: int, seconds: float) -> Measurement:
    """Take batches from a loader and do nothing with them.

    Args:
        start: Starts it.
        workers: Number of its worker processes.
        batch_size: Examples in each batch.
        seconds: Processor time of the run, for each worker.

    Returns:
        What it took, after it was started and has run for as long to get warm.
    """
    batches = start(workers)
    try:
        # Compiles, and touches pages for the first time. With a batch from each worker taken,
        # none of a slow loader's is ready beforehand.
        _take(batches, max(workers, 1), seconds)
        cpu_before, wall_before = cpu_seconds(), time.perf_counter()
        taken = _take(batches, max(workers, 1), seconds)
        wall, cpu = time.perf_counter() - wall_before, cpu_seconds() - cpu_before
        return Measurement(taken * batch_size, cpu, wall)
    finally:
        batches.close()
        gc.collect()  # ends the workers now, not in the middle of the next loader's run


def _take(batches: Iterator[Any], workers: int, seconds: float) -> int:
    """Take as many batches from each worker, for at least so long; returns their number."""
    end = cpu_seconds() + workers * seconds
    taken = 0
    while taken == 0 or cpu_seconds() < end:
        # The clock is looked at ever more seldom, because looking takes time.
        for _ in range(workers * (1 + taken // (8 * workers))):
            next(batches)
            taken += 1
    return taken


def cpu_seconds() -> float:
    """Processor time, user and system, of this process, its workers and what they waited for.

    Returns:
        Seconds since the processes began.

    Raises:
        DataError: The system does not tell (it needs Linux's ``/proc``).
    """
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    for worker in multiprocessing.active_children():
        try:
            content = Path(f"/proc/{worker.pid}/stat").read_text()
        except OSError as error:
            raise DataError(
                f"processor time of the workers cannot be read ({error}): measure on Linux, or "
                "with --workers 0"
            ) from error
        # After the name in parentheses: fields 14 to 17 are its own time and its children's.
        fields = content.rpartition(")")[2].split()[11:15]
        total += sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")
    return total


def _in_a_line(error: BaseException) -> str:
    # A worker's error has its traceback in the message, and what matters in the last line.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
