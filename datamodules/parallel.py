"""What is found wrong with data; work on many files at once, all of their faults in one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

from datamodules.files.audio import DataError

_FAULTS_SHOWN = 5
_SHARES_PER_WORKER = 100

Severity = Literal["error", "warning", "note"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of their data.

    Attributes:
        severity: ``error`` spoils training, ``warning`` should be looked into, ``note`` is a
            fact that may be as it should.
        name: Kind of finding, such as ``unlike-length``.
        where: The file or folder.
        finding: What was found, and what was expected.
        remedy: What to do.
    """

    severity: Severity
    name: str
    where: str
    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.finding}; {self.remedy}"

    @staticmethod
    def of(fault: DataError, path: Path, name: str = "unreadable") -> Finding:
        """Take an error apart.

        Args:
            fault: An error in the form "path: what was found; what to do".
            path: The path.
            name: Kind of finding.

        Returns:
            The finding, an error.
        """
        finding, _, remedy = str(fault).removeprefix(f"{path}: ").partition("; ")
        return Finding("error", name, str(path), finding, remedy)


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
