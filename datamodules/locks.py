"""Locks between processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """Hold a lock; no process is excluded where the file system has no locks.

    ``on_busy`` is called before waiting for another process; it may raise instead.
    """
    path.touch()
    lock = FileLock(path)
    with suppress(OSError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_busy()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
