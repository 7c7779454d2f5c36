"""Processes that score tracks beside the one that separates or reports."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from lightning_modules.runtime import signals

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# What the libraries below NumPy, SciPy and torch read when they are loaded.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)

# How much work for others goes before what nobody waits for, on the scale of Unix (0 to 19).
_BACKGROUND_NICENESS = 10
_SECONDS_BETWEEN_LOOKS = 1.0


def available_cores() -> int:
    """Count the cores that this process may use: a job's share, not the whole machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ScoringPool(ProcessPoolExecutor):
    """A pool whose processes share out the cores, and leave signals to stop to the main process.

    They end with the process that made the pool, also if that is killed.

    Args:
        processes: Number of processes; each starts when there is work for it.
        threads: Threads of linear algebra in each; by default one.
        background: Let other processes go first where cores are short.
    """

    _call_queue: Any  # its parent's own, which has no public name

    def __init__(self, processes: int, threads: int = 1, background: bool = False) -> None:
        self._threads = threads
        super().__init__(
            processes,
            # A fork would copy the locks of torch's threads.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), background),
        )

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Hand work to a process, starting it if it is the first; see ``Executor.submit``."""
        # A process reads these before any initializer runs: its main module may import NumPy.
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(self._threads))):
            return super().submit(fn, *args, **kwargs)

    def terminate(self) -> None:
        """End the processes at once, whatever they are working on."""
        self._kill()
        self.shutdown(cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes after their work, or at once where one is gone already."""
        if self._broken:
            self._kill()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _kill(self) -> None:
        for process in list((self._processes or {}).values()):
            process.kill()  # they ignore what is gentler
        # A thread may be writing a track into a pipe that nobody reads any longer, and would for
        # ever before Python 3.11.5 (python/cpython#94777): without a reader, writing fails.
        if self._call_queue is not None:
            self._call_queue._reader.close()


def _begin(parent: int, background: bool) -> None:
    signals.ignore(*signals.STOP)
    if background:
        os.nice(_BACKGROUND_NICENESS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: one that is killed tells nobody.

    The queue that work comes from does not: this process itself could write to it, so that it
    has no end.
    """
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


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
