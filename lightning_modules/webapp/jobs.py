"""Songs that are separated, and those that wait for their turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError

from datamodules.errors import DataError, counted

Report = Callable[[float, str], None]
"""Called with the finished part of something, 0 to 1, and what is being done."""

# Steps of the progress that its pace is measured over, and the shortest time between them.
_STEPS, _STEP_SECONDS = 20, 0.5


class StoppedError(Exception):
    """The user stopped the work or left the page, or the app is shutting down."""


class TimeLeft:
    """Time left of a stage of the work, from the pace of its last steps."""

    def __init__(self) -> None:
        self._stage: object = None
        self._end = 1.0
        self._steps: deque[tuple[float, float]] = deque(maxlen=_STEPS)

    def update(self, part: float, now: float, stage: object = None, end: float = 1.0) -> None:
        """Tell that a part, 0 to 1, is finished.

        Args:
            part: The finished part of all.
            now: Time, seconds.
            stage: What is being done; another stage has another pace.
            end: The part at which it ends.
        """
        if stage != self._stage:
            self._steps.clear()
        self._stage, self._end = stage, end
        last = self._steps[-1] if self._steps else (-_STEP_SECONDS, -1.0)
        if part > last[1] and now >= last[0] + _STEP_SECONDS:
            self._steps.append((now, part))

    def seconds(self, now: float) -> float | None:
        """Return the time left of the stage; None before it is known."""
        if len(self._steps) < 3:
            return None
        (start, first), (end, last) = self._steps[0], self._steps[-1]
        left = (self._end - last) * (end - start) / (last - first)
        return max(0.0, left - (now - end))


def time_left_words(seconds: float | None) -> str:
    """Return the time left in words, rounded; empty if it is not known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {round(seconds / 10) * 10} seconds left"
    return f"about {counted(max(1, round(seconds / 60)), 'minute')} left"


class Job:
    """Work on a song.

    Attributes:
        part: Finished part, 0 to 1.
        what: What is being done.
        result: The work's result, or its error.
    """

    def __init__(self) -> None:
        self.part, self.what = 0.0, ""
        self.result: Future[str] = Future()
        self._stopped = threading.Event()
        self._time_left = TimeLeft()

    def report(self, part: float, what: str, end: float = 1.0) -> None:
        """Tell how far the work is.

        Args:
            part: Finished part.
            what: What is being done.
            end: The part at which it ends.

        Raises:
            StoppedError: It is to be stopped.
        """
        if self._stopped.is_set():
            raise StoppedError
        self.part, self.what = part, what
        self._time_left.update(part, time.monotonic(), what, end)

    def within(self, start: float, end: float) -> Report:
        """Return a ``Report`` of a section of the work, which is from ``start`` to ``end``."""
        return lambda part, what: self.report(start + (end - start) * part, what, end)

    def stop(self) -> None:
        """Stop the work at its next report, or before it begins."""
        self._stopped.set()
        self.result.cancel()

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the work; return whether it has ended."""
        try:
            self.result.exception(seconds)
        except NotYetError:
            return False
        except CancelledError:
            pass
        return True

    @property
    def time_left(self) -> str:
        """Time left in words; empty if it is not known."""
        return time_left_words(self._time_left.seconds(time.monotonic()))


class Jobs:
    """The queue of all users.

    Args:
        parallel: Number of songs to separate at the same time.
        waiting: Maximum number of songs that wait.
    """

    def __init__(self, parallel: int, waiting: int) -> None:
        self.parallel, self.waiting = parallel, waiting
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="separation")
        self._unfinished: list[Job] = []
        self._lock = threading.Lock()

    def start(self, work: Callable[[Job], str]) -> Job:
        """Begin work, or let it wait for its turn.

        Raises:
            DataError: Too many songs are waiting.
        """
        job = Job()
        with self._lock:
            if len(self._unfinished) >= self.parallel + self.waiting:
                raise DataError(f"{self.waiting} songs are waiting already; try again later")
            self._unfinished.append(job)
            job.result = self._threads.submit(work, job)
        job.result.add_done_callback(lambda _: self._unfinished.remove(job))
        return job

    def ahead(self, job: Job) -> int:
        """Number of jobs that must end before a job begins."""
        jobs = list(self._unfinished)
        return max(0, jobs.index(job) + 1 - self.parallel) if job in jobs else 0

    def close(self) -> None:
        """Stop all jobs."""
        for job in list(self._unfinished):
            job.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
