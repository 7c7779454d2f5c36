"""What separation costs: a whole track through each model, as its own project does it.

Models of this project's configs go through ``separate()``, in chunks; other projects' networks
through their own inference. All get the same noise, in turn; figures are medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from datamodules.markdown import markdown
from lightning_modules.benchmark import timing
from lightning_modules.benchmark.networks import Entrant, add_entrants, check_entrants, entrants_of
from lightning_modules.benchmark.step import settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    add_entrants(parser)
    parser.add_argument(
        "--track-seconds", type=float, default=60.0, help="length of the track (default 60)"
    )
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        ValueError: An option is not what it must be, or a config does not exist.
    """
    timing.check(options, "track_seconds")
    check_entrants(options)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, on what and how, in JSON's types.
    """

    def prepare(make: Callable[[], Entrant]) -> Callable[[], object]:
        entrant = make()
        samples = round(options.track_seconds * entrant.sample_rate)
        random = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(entrant.channels, samples, generator=random)
        return partial(entrant.separate, noise.to(options.device))

    measured = timing.time_interleaved(
        {
            name: partial(prepare, make)
            for name, make in entrants_of(
                options.configs, options.peers, [], options.device
            ).items()
        },
        options.repeats,
        options.device,
    )
    rows = {
        name: {
            "fault": timed.fault or None,
            "seconds": timed.median,
            "times_real_time": options.track_seconds / timed.median if timed.median else None,
            "gpu_peak_gb": timed.peak_bytes / 1e9,
        }
        for name, timed in measured.items()
    }
    return {"settings": settings_of(options), "rows": rows}


def table(report: dict[str, Any]) -> str:
    """Write a report for people, as a Markdown table whose columns are aligned.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
    settings = report["settings"]
    lines = [["network", "time", "x real time", "GPU memory"]]
    for name, row in report["rows"].items():
        memory = row["gpu_peak_gb"]
        lines.append(
            [name, f"not measured: {row['fault']}", "", ""]
            if row["fault"]
            else [
                name,
                f"{row['seconds']:.3g} s",
                f"{row['times_real_time']:.3g}",
                f"{memory:.2f} GB" if memory else "-",
            ]
        )
    return "\n".join(
        [
            f"Separation of {settings['track_seconds']:g} s of stereo; {settings['device']}, "
            f"{settings['threads']} threads, torch {settings['torch']}; median of "
            f"{settings['repeats']}.",
            "",
            *markdown(lines),
        ]
    )
