"""Interleaved timing: every candidate runs once per round, so a slower machine slows all."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.markdown import markdown
from lightning_modules.runtime.device import usable_device

_LONGEST_FAULT = 200  # characters of an error message in a table cell
_SETTINGS = ("batch_size", "segment_seconds", "precision", "repeats", "track_seconds")
Prepare = Callable[[], Callable[[], object]]
"""Does the setup once and returns the function to time."""


@dataclass
class Timed:
    """Times of one candidate.

    Attributes:
        seconds: One per round, without the first round, which compiles and allocates.
        fault: Error that stopped it; empty if there was none.
        peak_bytes: Peak GPU memory over all rounds; 0 on a CPU.
    """

    seconds: list[float] = field(default_factory=list)
    fault: str = ""
    peak_bytes: int = 0

    @property
    def median(self) -> float | None:
        """Median time, seconds; None without a measurement."""
        return statistics.median(self.seconds) if self.seconds else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--repeats``, ``--device`` and ``--threads``."""
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds (default 5)")
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")


def check(options: argparse.Namespace, *positive: str) -> None:
    """Check numbers, resolve the device and set the number of threads.

    Args:
        options: Parsed command line.
        positive: More options that must be above 0.

    Raises:
        DataError: A number is not positive and finite, or the device cannot be used.
    """
    check_positive(options, "repeats", "threads", *positive)
    options.device = str(usable_device(options.device))
    if options.threads:
        torch.set_num_threads(options.threads)


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Check numbers of the command line.

    Raises:
        DataError: One that is given is not positive and finite.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise DataError(f"--{name.replace('_', '-')} is {value:g}: give a number above 0")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Machine and options of a measurement, in JSON's types."""
    given = {name: value for name, value in vars(options).items() if name in _SETTINGS}
    return machine(options.device) | given


def machine(device: str) -> dict[str, Any]:
    """Device, threads and version of torch, in JSON's types."""
    gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(
    what: str,
    headings: str,
    report: Mapping[str, Any],
    cells: Callable[[dict[str, Any]], list[str]],
) -> str:
    """Format a report of candidates; the error of one that failed replaces its numbers.

    Args:
        what: Description of the measurement.
        headings: Headings of the columns, separated by commas.
        report: Settings, and a row per candidate.
        cells: Formats a row: all columns but the first, which is the candidate's name.
    """
    settings, lines = report["settings"], [headings.split(", ")]
    for name, row in report["rows"].items():
        shown = [f"not measured: {row['fault']}"] if row["fault"] else cells(row)
        lines.append([name, *shown, *[""] * (len(lines[0]) - 1 - len(shown))])
    conditions = (
        f"{settings['device']}, {settings['threads']} threads, torch {settings['torch']}; "
        f"median of {settings['repeats']}."
    )
    return "\n".join([f"{what}; {conditions}", "", *markdown(lines)])


def time_interleaved(
    candidates: Mapping[str, Prepare], repeats: int, device: str
) -> dict[str, Timed]:
    """Time candidates round by round, after one round that is not counted.

    Args:
        candidates: Name -> setup.
        repeats: Number of counted rounds.
        device: Torch device to synchronise with.

    Returns:
        Name -> times, or the error of setup or run.
    """
    measured = {name: Timed() for name in candidates}
    runs: dict[str, Callable[[], object]] = {}
    steps = [(number, name) for number in range(1 + repeats) for name in candidates]
    with tqdm(steps, "measuring", unit="run", disable=None, leave=False) as bar:
        for number, name in bar:
            bar.set_postfix_str(name)
            result = measured[name]
            if result.fault:
                continue
            try:
                if name not in runs:
                    runs[name] = candidates[name]()
                seconds, peak = timed(runs[name], device)
            except Exception as error:  # other projects' code may raise anything
                words = " ".join(str(error).split())
                result.fault = words[:_LONGEST_FAULT] or type(error).__name__
                runs.pop(name, None)
                continue
            result.peak_bytes = max(result.peak_bytes, peak)
            if number:
                result.seconds.append(seconds)
    return measured


def timed(run: Callable[[], object], device: str) -> tuple[float, int]:
    """Time one call with the work it queued on the device: seconds, and peak GPU memory in bytes.

    The peak is 0 on a CPU.
    """
    gpu = torch.device(device).type == "cuda"
    synchronise(device)
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated(device) if gpu else 0


def synchronise(device: str) -> None:
    """Wait for the work that is queued on a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
