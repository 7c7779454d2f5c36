"""Measurement of loaders: processor time of all processes, and wall time."""

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

from datamodules.errors import DataError
from datamodules.progress import Bar

Batches = Generator[Any, None, None]
Start = Callable[[int], Batches]
"""Starts a loader with a number of workers; its batches are endless, and closing stops it."""

# A loader skips later rounds when it has taken this many times its share of the time.
_PATIENCE = 2


class Measurement(NamedTuple):
    """One run of a loader.

    Attributes:
        examples: Number of examples.
        cpu_seconds: Processor time of this process and the workers.
        wall_seconds: Wall time.
    """

    examples: int
    cpu_seconds: float
    wall_seconds: float


@dataclass
class Result:
    """All measurements of a loader.

    Attributes:
        runs: Number of workers -> runs, one per round.
        fault: Why it cannot be measured; empty if it can.
    """

    runs: dict[int, list[Measurement]] = field(default_factory=dict)
    fault: str = ""

    def examples_per_cpu_second(self, workers: int) -> float | None:
        """Median over the rounds; None if not measured with this number of workers."""
        runs = self.runs.get(workers)
        return statistics.median(run.examples / run.cpu_seconds for run in runs) if runs else None

    def wall_ratio(self, more: int, fewer: int) -> float | None:
        """Ratio of throughputs with more and with fewer workers, median over rounds."""
        pairs = zip(self.runs.get(more, []), self.runs.get(fewer, []), strict=False)
        ratios = [(a.examples / a.wall_seconds) / (b.examples / b.wall_seconds) for a, b in pairs]
        return statistics.median(ratios) if ratios else None


class Candidate(NamedTuple):
    """A loader to measure.

    Attributes:
        name: Its name.
        prepare: Prepares what all its runs share, such as an index of the files.
        workers: Numbers of workers to run it with.
    """

    name: str
    prepare: Callable[[], Start]
    workers: Sequence[int]


def measure_all(
    candidates: Sequence[Candidate], batch_size: int, seconds: float, repeats: int
) -> dict[str, Result]:
    """Measure loaders in rounds, so that a machine that slows down affects all of them equally.

    Args:
        candidates: The loaders.
        batch_size: Examples in each batch.
        seconds: Processor time of a run per worker; at least one batch per worker is taken.
        repeats: Number of rounds. A loader whose batches take longer than a run takes part in as
            many rounds as fit into twice its share of the time.

    Returns:
        Name -> measurements, or why there are none.
    """
    results = {candidate.name: Result() for candidate in candidates}
    starts: dict[str, Start] = {}
    spent = dict.fromkeys(results, 0.0)
    steps = [(each, n) for _ in range(repeats) for each in candidates for n in each.workers]
    with Bar(steps, "measuring", unit="run", leave=False) as bar:
        for candidate, workers in bar:
            bar.set_postfix_str(f"{candidate.name}, {workers} workers")
            name, measured = candidate.name, results[candidate.name]
            allowed = _PATIENCE * repeats * seconds * sum(max(n, 1) for n in candidate.workers)
            runs = measured.runs.setdefault(workers, [])
            # A round is always completed, because its runs are compared with each other.
            begun = len(runs) < max(map(len, measured.runs.values()))
            if measured.fault or (runs and not begun and spent[name] > allowed):
                continue
            try:
                if name not in starts:
                    starts[name] = candidate.prepare()
                runs.append(measure(starts[name], workers, batch_size, seconds))
            except Exception as error:  # other projects may raise anything
                measured.fault = _last_line(error)
            else:
                spent[name] += runs[-1].cpu_seconds
    return results


def measure(start: Start, workers: int, batch_size: int, seconds: float) -> Measurement:
    """Take batches without using them, for a processor time per worker, after a warm-up."""
    batches = start(workers)
    try:
        # Warm-up: compiles and allocates. Taking one batch per worker leaves none prefetched by a
        # slow loader.
        _take(batches, max(workers, 1), seconds)
        cpu_before, wall_before = cpu_seconds(), time.perf_counter()
        taken = _take(batches, max(workers, 1), seconds)
        wall, cpu = time.perf_counter() - wall_before, cpu_seconds() - cpu_before
        return Measurement(taken * batch_size, cpu, wall)
    finally:
        batches.close()
        gc.collect()  # ends the workers now, not in the middle of the next loader's run


def _take(batches: Iterator[Any], workers: int, seconds: float) -> int:
    """Take equally many batches from each worker, for at least that long; returns the total."""
    end = cpu_seconds() + workers * seconds
    taken = 0
    while taken == 0 or cpu_seconds() < end:
        # Reading the clock takes time, so it is read less and less often.
        for _ in range(workers * (1 + taken // (8 * workers))):
            next(batches)
            taken += 1
    return taken


def cpu_seconds() -> float:
    """Processor time, user and system, of this process, its workers and their ended children.

    Raises:
        DataError: The system has no ``/proc`` (it needs Linux).
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
        # After the name in parentheses: fields 14 to 17 are the times of itself and its children.
        fields = content.rpartition(")")[2].split()[11:15]
        total += sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")
    return total


def _last_line(error: BaseException) -> str:
    # The message of a worker's error contains a traceback, with the cause in the last line.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
