"""Measurement of processor time; a failing loader does not affect the others."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from multiprocessing.synchronize import Event

import pytest

from datamodules.benchmark import measuring
from datamodules.benchmark.measuring import (
    Batches,
    Candidate,
    Measurement,
    Result,
    Start,
    cpu_seconds,
    measure,
    measure_all,
)
from datamodules.errors import DataError


def spin(ready: Event, end: Event) -> None:
    """Use 0.3 seconds of processor time."""
    while time.process_time() < 0.3:
        pass
    ready.set()
    end.wait()


@pytest.mark.slow
def test_time_of_workers_counts_while_they_run_and_after() -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    before, own = cpu_seconds(), time.process_time()
    worker = context.Process(target=spin, args=(ready, end))
    worker.start()
    ready.wait()
    alive = cpu_seconds() - before
    end.set()
    worker.join()
    joined = cpu_seconds() - before
    own = time.process_time() - own
    assert 0.25 < alive - own < 0.6
    assert joined >= alive - 0.03  # whole ticks of the clock


def test_system_without_worker_times_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        pid = "none"

    monkeypatch.setattr(multiprocessing, "active_children", lambda: [Worker()])
    with pytest.raises(DataError, match="with --workers 0"):
        cpu_seconds()


@pytest.mark.slow
def test_batches_are_taken_in_groups_and_the_loader_is_closed() -> None:
    events: list[str] = []

    def start(workers: int) -> Batches:
        try:
            while True:
                events.append("batch")
                yield None
        finally:
            events.append("closed")

    measured = measure(start, workers=3, batch_size=2, seconds=1e-9)
    assert events == ["batch"] * 6 + ["closed"]  # one group to warm up
    assert measured.examples == 6
    assert measured.wall_seconds > 0


def test_rows_are_interleaved_and_a_fault_stops_only_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of a row is its processor time per run, seconds."""
    calls: list[tuple[str, int]] = []

    def prepare(name: str) -> Start:
        def start(workers: int) -> Batches:
            calls.append((name, workers))
            if name == "broken" and workers:
                raise RuntimeError("Caught it in a worker\nTraceback\n  ValueError: no chunk\n")
            yield None

        if name == "absent":
            raise AssertionError
        calls.append((name, -1))
        return start

    def run(start: Start, workers: int, batch_size: int, seconds: float) -> Measurement:
        next(start(workers))
        name = calls[-1][0]
        return Measurement(batch_size, float(name) if name.isdigit() else 1.0, 1.0)

    monkeypatch.setattr(measuring, "measure", run)
    names = {"1": [0, 2], "broken": [0, 2], "absent": [0], "5": [0, 2], "2": [1]}
    candidates = [Candidate(name, partial(prepare, name), counts) for name, counts in names.items()]
    results = measure_all(candidates, batch_size=3, seconds=1.0, repeats=3)

    first = [("1", -1), ("1", 0), ("1", 2), ("broken", -1), ("broken", 0), ("broken", 2)]
    assert calls[:11] == [*first, ("5", -1), ("5", 0), ("5", 2), ("2", -1), ("2", 1)]
    assert results["broken"].fault == "ValueError: no chunk"
    assert results["absent"].fault == "AssertionError"
    assert results["absent"].examples_per_cpu_second(0) is None
    counts = {name: {n: len(r) for n, r in each.runs.items()} for name, each in results.items()}
    # The limit is 18 seconds for workers 0 and 2: "5" exceeds it in its second round.
    assert counts == {
        "1": {0: 3, 2: 3},
        "broken": {0: 1, 2: 0},
        "absent": {0: 0},
        "5": {0: 2, 2: 2},
        "2": {1: 3},
    }
    assert results["1"].examples_per_cpu_second(2) == 3.0


def test_medians_over_rounds() -> None:
    measured = Result(
        {
            1: [Measurement(10, 1.0, 1.0), Measurement(10, 2.0, 1.0), Measurement(10, 4.0, 2.0)],
            2: [Measurement(10, 1.0, 0.5), Measurement(10, 1.0, 1.0), Measurement(30, 1.0, 4.0)],
        }
    )
    assert measured.examples_per_cpu_second(1) == 5.0
    assert measured.examples_per_cpu_second(3) is None
    # Ratios per round: 2, 1 and 1.5.
    assert measured.wall_ratio(2, 1) == 1.5
    assert measured.wall_ratio(3, 1) is None
