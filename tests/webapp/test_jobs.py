"""The queue of songs, and the time that is left."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from datamodules.errors import DataError
from lightning_modules.webapp.jobs import Job, Jobs, StoppedError, TimeLeft, time_left_words


def test_time_left_follows_the_pace() -> None:
    left = TimeLeft()
    left.update(0.0, 100.0)
    assert left.seconds(100.0) is None
    for second in range(1, 5):
        left.update(second / 100, 100.0 + second)
    assert left.seconds(104.0) == pytest.approx(96)
    assert left.seconds(106.0) == pytest.approx(94), "it counts down between two reports"
    for second in range(5, 40):  # ten times faster
        left.update(0.04 + (second - 4) / 40, 100.0 + second)
    assert left.seconds(139.0) == pytest.approx((1 - 0.915) * 40)
    assert left.seconds(500.0) == 0


def test_each_stage_has_its_own_pace() -> None:
    left = TimeLeft()
    for second in range(11):
        left.update(second / 100, second, "download", end=0.4)
    assert left.seconds(10) == pytest.approx(30), "of the download alone"
    left.update(0.4, 40, "separation")
    assert left.seconds(40) is None
    for second in range(1, 4):
        left.update(0.4 + second / 1000, 40 + second, "separation")
    assert left.seconds(43) == pytest.approx(597)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0, "a few seconds left"), (9, "a few seconds left"),
     (38, "about 40 seconds left"), (55, "about 1 minute left"), (149, "about 2 minutes left")],
)  # fmt: skip
def test_time_left_in_words(seconds: float | None, words: str) -> None:
    assert time_left_words(seconds) == words


def test_songs_wait_for_their_turn() -> None:
    running: list[int] = []
    most: list[int] = []
    go_on = threading.Event()

    def work(job: Job) -> str:
        running.append(1)
        go_on.wait(10)
        most.append(len(running))
        running.pop()
        return "done"

    with closing(Jobs(parallel=1, waiting=2)) as jobs:
        started = [jobs.start(work) for _ in range(3)]
        assert [jobs.ahead(job) for job in started] == [0, 1, 2]
        with pytest.raises(DataError, match="2 songs are waiting already"):
            jobs.start(work)
        go_on.set()
        assert [job.result.result(10) for job in started] == ["done"] * 3
        assert most == [1, 1, 1]
        assert jobs.ahead(started[2]) == 0


def test_stopped_jobs() -> None:
    begun = threading.Event()

    def work(job: Job) -> str:
        while True:
            job.within(0.5, 1)(0.5, "working")
            begun.set()
            time.sleep(0.01)

    jobs = Jobs(parallel=1, waiting=2)
    first, second, third = (jobs.start(work) for _ in range(3))
    assert begun.wait(10)
    assert (first.part, first.what) == (0.75, "working")
    assert not first.wait(0.01)
    second.stop()
    assert second.wait(10), "it has not begun"
    first.stop()
    with pytest.raises(StoppedError):
        first.result.result(10)
    jobs.close()
    assert third.wait(10), "the app is shutting down"
