"""Work on many files in threads, with one error for all that are faulty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from datamodules.errors import DataError

_FAULTS_SHOWN = 5
_CHUNKS_PER_WORKER = 100

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    progress: bool,
    workers: int = 8,
) -> list[Result]:
    """Call a function on every item in threads; raise one error for all faulty items.

    Args:
        work: The function; a ``DataError`` that it raises marks its item as faulty.
        items: Its arguments.
        description: Label of the progress bar.
        progress: Show the bar, if it takes more than a second.
        workers: Number of threads.

    Returns:
        Results in the order of the items.

    Raises:
        DataError: Some items are faulty; the first five are listed.
    """
    from datamodules.progress import Bar  # here, because help and mistakes do not need it

    results: list[Result] = []
    faults: list[str] = []
    # In chunks, as submitting one item takes 0.1 ms.
    size = max(1, len(items) // (workers * _CHUNKS_PER_WORKER))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]

    def work_on(chunk: Sequence[Item]) -> tuple[list[Result], list[str]]:
        results, faults = [], []
        for item in chunk:
            try:
                results.append(work(item))
            except DataError as fault:
                faults.append(str(fault))
        return results, faults

    executor = ThreadPoolExecutor(workers)
    try:
        total, hidden = len(items), not progress
        with Bar(total=total, desc=description, delay=1, leave=False, disable=hidden) as bar:
            for done, faulty in executor.map(work_on, chunks):
                results += done
                faults += faulty
                bar.update(len(done) + len(faulty))
    finally:
        # Without cancelling, Ctrl-C would wait for all items.
        executor.shutdown(cancel_futures=True)
    raise_faults(faults)
    return results


def raise_faults(faults: Sequence[str]) -> None:
    """Raise one error for all faults, if there are any; the first five are listed."""
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        lines = [f"{len(faults)} faults in the data:", *faults[:_FAULTS_SHOWN]]
        if len(faults) > _FAULTS_SHOWN:
            lines.append(f"... and {len(faults) - _FAULTS_SHOWN} more")
        raise DataError("\n  ".join(lines))
