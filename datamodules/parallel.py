"""What is found wrong with data; work on many files at once, all of their faults in one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from datamodules.errors import DataError

_FAULTS_SHOWN = 5
_SHARES_PER_WORKER = 100


Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    progress: bool,
    workers: int = 8,
) -> list[Result]:
    """Do the work on every item in threads; then report the faults of all of them together.

    Args:
        work: What to do; a ``DataError`` from it is a fault of its item.
        items: What to do it on.
        description: Label of the progress bar.
        progress: Show the bar, if the work takes more than a second.
        workers: Number of threads.

    Returns:
        Results in the order of the items.

    Raises:
        DataError: Some items are faulty; the first five are named.
    """
    results, faults = [], []
    # Many small pieces of work are handed out by the dozen: each handing-over costs 0.1 ms.
    size = max(1, len(items) // (workers * _SHARES_PER_WORKER))
    shares = [items[start : start + size] for start in range(0, len(items), size)]

    def work_on(share: Sequence[Item]) -> tuple[list[Result], list[str]]:
        results, faults = [], []
        for item in share:
            try:
                results.append(work(item))
            except DataError as fault:
                faults.append(str(fault))
        return results, faults

    executor = ThreadPoolExecutor(workers)
    try:
        futures = [executor.submit(work_on, share) for share in shares]
        with tqdm(
            total=len(items), desc=description, delay=1, leave=False, disable=not progress
        ) as bar:
            for future, share in zip(futures, shares, strict=True):
                done, faulty = future.result()
                results += done
                faults += faulty
                bar.update(len(share))
    finally:
        # Without cancelling, Ctrl-C would wait for all items.
        executor.shutdown(cancel_futures=True)
    raise_faults(faults)
    return results


def raise_faults(faults: Sequence[str]) -> None:
    """Raise one error for all faults, if there are any.

    Args:
        faults: A line for each.

    Raises:
        DataError: There are faults; the first five are named.
    """
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        lines = [f"{len(faults)} faults in the data:", *faults[:_FAULTS_SHOWN]]
        if len(faults) > _FAULTS_SHOWN:
            lines.append(f"... and {len(faults) - _FAULTS_SHOWN} more")
        raise DataError("\n  ".join(lines))
