"""Cost of separation: a whole track through each network, as its own project does it.

Models of this project's configs run ``separate()``, networks of other packages their own
inference. All get the same noise, interleaved; times are medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lightning_modules.benchmark import timing
from lightning_modules.benchmark.networks import (
    Candidate,
    add_candidates,
    candidates_of,
    check_candidates,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    add_candidates(parser)
    parser.add_argument(
        "--track-seconds", type=float, default=60.0, help="length of the track (default 60)"
    )
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        ValueError: A number is not positive, or a config does not exist.
    """
    timing.check(options, "track_seconds")
    check_candidates(options)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all candidates; returns settings and rows in JSON's types."""

    def prepare(make: Callable[[], Candidate]) -> Callable[[], object]:
        candidate = make()
        samples = round(options.track_seconds * candidate.sample_rate)
        random = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(candidate.channels, samples, generator=random)
        return partial(candidate.separate, noise.to(options.device))

    makers = candidates_of(options.configs, options.peers, [], options.device)
    setups = {name: partial(prepare, make) for name, make in makers.items()}
    measured = timing.time_interleaved(setups, options.repeats, options.device)
    rows = {
        name: {
            "fault": timed.fault or None,
            "seconds": timed.median,
            "times_real_time": options.track_seconds / timed.median if timed.median else None,
            "gpu_peak_gb": timed.peak_bytes / 1e9,
        }
        for name, timed in measured.items()
    }
    return {"settings": timing.settings_of(options), "rows": rows}


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""

    def cells(row: dict[str, Any]) -> list[str]:
        memory = f"{row['gpu_peak_gb']:.2f} GB" if row["gpu_peak_gb"] else "-"
        return [f"{row['seconds']:.3g} s", f"{row['times_real_time']:.3g}", memory]

    what = f"Separation of {report['settings']['track_seconds']:g} s of audio"
    return timing.table(what, "network, time, x real time, GPU memory", report, cells)
