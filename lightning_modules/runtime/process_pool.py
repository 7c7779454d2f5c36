"""Pool of processes that score tracks."""

from __future__ import annotations

import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import as_completed as futures_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

from datamodules.stream.workers import ignore_signals, stop_signals_blocked
from lightning_modules.runtime.parent import exit_with_parent

Result = TypeVar("Result")

# Read by the linear algebra libraries of NumPy, SciPy and torch when they are loaded.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def available_cores() -> int:
    """Number of cores that this process may use: a job's share, not the whole machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ScoringPool(ProcessPoolExecutor):
    """Process pool with a limit on threads whose processes ignore stop signals.

    The processes end with the process that made the pool, also if that is killed.

    Args:
        processes: Number of processes; each starts when there is work for it.
        threads: Threads of linear algebra in each.
        background: Run at a lower priority than other processes.
    """

    _call_queue: Any  # of the parent class, without a public name

    def __init__(self, processes: int, threads: int = 1, background: bool = False) -> None:
        self.processes, self._threads = processes, threads
        with stop_signals_blocked():
            super().__init__(
                processes,
                # A forked process would inherit locks that torch's threads hold.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_initialise,
                initargs=(os.getpid(), background),
            )
        _pools.add(self)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Submit work, starting a process for it if needed; see ``Executor.submit``."""
        # Set here, as a process may import NumPy before its initializer runs.
        threads = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
        with _environment(threads), stop_signals_blocked():
            return super().submit(fn, *args, **kwargs)

    @property
    def is_broken(self) -> bool:
        """Whether one of its processes was killed; a broken pool takes no work."""
        return bool(self._broken)

    def terminate(self) -> None:
        """End the processes at once, even while they work."""
        self._kill()
        self.shutdown(cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes after their work, or at once if one has died."""
        if self._broken:
            self._kill()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _kill(self) -> None:
        for process in list((self._processes or {}).values()):
            process.kill()  # they ignore SIGTERM
        # Before Python 3.11.5 (python/cpython#94777) a thread that writes a track into the pipe
        # would wait for ever for a reader; with the pipe closed, writing fails. Later versions
        # close it themselves, in a thread: a second close at the same time raises EBADF.
        if sys.version_info < (3, 11, 5) and self._call_queue is not None:
            self._call_queue._reader.close()

    def close_pipe(self) -> None:
        """Close this process's ends of the pipe to the scoring processes."""
        if self._call_queue is not None:
            for end in (self._call_queue._reader, self._call_queue._writer):
                with suppress(OSError):  # another thread was closing it
                    end.close()


class PoolTask(Generic[Result]):
    """Work in a pool, done once more in a process alone if a process of the pool was killed.

    The system kills processes when memory runs out, and then all work of the pool is lost.

    Args:
        pool: The pool.
        work: Called with ``arguments``; they are kept until it is done.
    """

    def __init__(self, pool: ScoringPool, work: Callable[..., Result], *arguments: Any) -> None:
        self._work: Callable[[], Result] | None = partial(work, *arguments)
        self._future: Future[Result] = Future()
        try:
            self._future = pool.submit(work, *arguments)
        except BrokenProcessPool as error:
            self._future.set_exception(error)
        self._future.add_done_callback(self._release)

    def _release(self, future: Future[Result]) -> None:
        if future.cancelled() or not isinstance(future.exception(), BrokenProcessPool):
            self._work = None

    def done(self) -> bool:
        """Whether the pool does not work on it any more."""
        return self._future.done()

    def result(self) -> Result:
        """Wait for the result; errors of the work are raised, and `BrokenProcessPool`."""
        try:
            return self._future.result()
        except BrokenProcessPool:
            work, self._work = self._work, None
            if work is None:
                raise
            return _alone(work)


def as_completed(tasks: Iterable[PoolTask[Result]]) -> Iterator[PoolTask[Result]]:
    """Yield each task when the pool does not work on it any more."""
    by_future = {task._future: task for task in tasks}
    for future in futures_completed(by_future):
        yield by_future[future]


def _alone(work: Callable[[], Result]) -> Result:
    pool = ScoringPool(1)
    try:
        return pool.submit(work).result()
    finally:
        pool.terminate()


_pools: weakref.WeakSet[ScoringPool] = weakref.WeakSet()


def _close_inherited_pipes() -> None:
    """In a loader worker, close what it has inherited by the fork.

    As long as it holds the reading end, a thread that writes a track for scoring processes that
    have died waits for ever, and with it the run.
    """
    for pool in list(_pools):
        pool.close_pipe()


os.register_at_fork(after_in_child=_close_inherited_pipes)


def _initialise(parent: int, background: bool) -> None:
    ignore_signals(0)
    if background:
        os.nice(10)  # of 0 to 19
    # Reading the work queue does not end then: this process holds its writing end too.
    exit_with_parent(parent)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
