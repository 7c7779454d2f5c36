"""Things that are timed in turn, round by round, so that a machine that slows down slows all."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from datamodules.errors import DataError
from lightning_modules.runtime.device import usable_device

# What of an error stands in the table.
_LONGEST_FAULT = 120
Prepare = Callable[[], Callable[[], object]]
"""Makes what is needed once, and returns what is timed."""


@dataclass
class Timed:
    """What was measured of a thing.

    Attributes:
        seconds: Its runs, one a round, the first not counted, which compiles and allocates.
        fault: Why it could not be run; empty if it could.
        peak_bytes: Most memory of the GPU that all its runs had in use; 0 on a CPU.
    """

    seconds: list[float] = field(default_factory=list)
    fault: str = ""
    peak_bytes: int = 0

    @property
    def median(self) -> float | None:
        """Median time of a run, seconds; None if there is none."""
        return statistics.median(self.seconds) if self.seconds else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold of where and how often.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    parser.add_argument(
        "--threads", type=int, help="threads of torch on a CPU; by default torch's own choice"
    )


def check(options: argparse.Namespace, *lengths: str) -> None:
    """Refuse numbers that measure nothing, and settle the device.

    Args:
        options: What was asked for.
        lengths: Names of options that must be above 0.

    Raises:
        DataError: An option is not what it must be.
    """
    for name in ("repeats", "threads", *lengths):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise DataError(f"--{name.replace('_', '-')} is {value:g}: give a number above 0")
    options.device = str(usable_device(options.device))
    if options.threads:
        torch.set_num_threads(options.threads)


def time_interleaved(
    entrants: Mapping[str, Prepare], repeats: int, device: str, progress: bool = True
) -> dict[str, Timed]:
    """Time things in turn.

    Args:
        entrants: Name -> what makes the thing.
        repeats: Number of rounds that count.
        device: Torch device that is waited for.
        progress: Show a progress bar.

    Returns:
        Name -> what was measured, or why it could not be.
    """
    measured = {name: Timed() for name in entrants}
    runs: dict[str, Callable[[], object]] = {}
    steps = [(turn, name) for turn in range(1 + repeats) for name in entrants]
    with tqdm(steps, "measuring", unit="run", disable=not progress, leave=False) as bar:
        for turn, name in bar:
            bar.set_postfix_str(name)
            result = measured[name]
            if result.fault:
                continue
            try:
                if name not in runs:
                    runs[name] = entrants[name]()
                seconds, peak = timed(runs[name], device)
            except Exception as error:  # whatever another project's code may raise
                words = " ".join(str(error).split())
                result.fault = words[:_LONGEST_FAULT] or type(error).__name__
                runs.pop(name, None)
                continue
            result.peak_bytes = max(result.peak_bytes, peak)
            if turn:
                result.seconds.append(seconds)
    return measured


def timed(run: Callable[[], object], device: str) -> tuple[float, int]:
    """Time a run to the end of what it started on the device.

    Args:
        run: What is run.
        device: Torch device.

    Returns:
        Seconds, and the most memory of the GPU that was in use, bytes; 0 on a CPU.
    """
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run()
    if gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated(device) if gpu else 0
