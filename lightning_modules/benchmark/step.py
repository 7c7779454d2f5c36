"""Cost of a training step: forward pass, backward pass and optimizer, on noise in memory.

Models of this project's configs and networks of other packages, interleaved, with the same batch
size; times are medians. No data are read: this is the rate that the loader has to keep up with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from datamodules.batches import Batch
from lightning_modules.benchmark import timing
from lightning_modules.benchmark.networks import (
    Candidate,
    add_candidates,
    candidates_of,
    check_candidates,
)
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import ConfigError
from lightning_modules.layers import images

_CHANNELS_FIRST = "channels first"
_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    add_candidates(parser)
    parser.add_argument("--batch-size", type=int, default=4, help="default 4")
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="crop (default 6)")
    parser.add_argument("--precision", choices=list(_PRECISIONS), default="32-true")
    parser.add_argument(
        "--also", action="append", default=[], metavar="SETTING",
        help="measure each config again with this setting, such as model.init_args.compiled=true; "
        "repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--channels-first", action="store_true",
        help="measure each config again without torch.channels_last",
    )  # fmt: skip
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        ValueError: A number is not positive, a config does not exist, or no config accepts a
            setting of ``--also``.
    """
    timing.check(options, "batch_size", "segment_seconds")
    check_candidates(options)
    for setting in options.also:
        refused: ConfigError | None = None
        for name in options.configs:
            try:
                build_model(name, [f"--{setting}"])
                break
            except ConfigError as error:
                refused = error
        else:
            raise ConfigError(f"--also {setting}: {refused}") from refused


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all candidates; returns settings and rows in JSON's types."""
    settings = [f"--data.init_args.segment_seconds={options.segment_seconds:g}"]
    makers = candidates_of(options.configs, options.peers, settings, options.device)
    variants = {setting.rpartition(".")[2]: [f"--{setting}"] for setting in options.also}
    if options.channels_first:
        variants[_CHANNELS_FIRST] = []
    for label, more in variants.items():
        ours = candidates_of(options.configs, [], [*settings, *more], options.device)
        makers |= {f"{name}, {label}": maker for name, maker in ours.items()}
    candidates: dict[str, Candidate] = {}

    def prepare(name: str, make: Callable[[], Candidate]) -> Callable[[], object]:
        first = name.endswith(_CHANNELS_FIRST)
        memory_format = torch.contiguous_format if first else torch.channels_last
        layout = patch.object(images, "memory_format", memory_format)
        with layout:
            candidate = candidates[name] = make()
        samples = round(options.segment_seconds * candidate.sample_rate)
        sizes = (options.batch_size, samples, options.precision, options.device)
        return layout(training_step(candidate, *sizes))

    setups = {name: partial(prepare, name, make) for name, make in makers.items()}
    # Otherwise torch.compile treats models of one class as one model with dynamic shapes.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        measured = timing.time_interleaved(setups, options.repeats, options.device)
    rows = {}
    for name, timed in measured.items():
        row: dict[str, Any] = {"fault": timed.fault or None, "seconds": timed.median}
        if timed.median is not None:
            candidate = candidates[name]
            samples = options.batch_size * round(options.segment_seconds * candidate.sample_rate)
            row |= {
                "parameters": sum(p.numel() for p in candidate.network.parameters()),
                "examples_per_second": options.batch_size / timed.median,
                "audio_seconds_per_second": samples / candidate.sample_rate / timed.median,
                "teraflops_per_second": 3 * candidate.flops * samples / timed.median / 1e12,
                "gpu_peak_gb": timed.peak_bytes / 1e9,
            }
        rows[name] = row
    return {"settings": timing.settings_of(options), "rows": rows}


def training_step(
    candidate: Candidate, batch_size: int, samples: int, precision: str, device: str
) -> Callable[[], object]:
    """Return a function that makes one training step on noise; ``precision`` is Lightning's."""
    random = torch.Generator().manual_seed(0)
    shape = (batch_size, candidate.sources, candidate.channels, samples)
    targets = (0.1 * torch.randn(shape, generator=random)).to(device)
    batch = Batch(targets.sum(1), targets)
    optimizer = candidate.make_optimizer()
    dtype = _PRECISIONS[precision]
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    candidate.network.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            loss = candidate.loss(batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""

    def cells(row: dict[str, Any]) -> list[str]:
        flops, memory = row["teraflops_per_second"], row["gpu_peak_gb"]
        return [
            f"{row['parameters']:,}",
            f"{row['seconds']:.3g} s",
            f"{row['examples_per_second']:.3g}",
            f"{row['audio_seconds_per_second']:.3g}",
            f"{flops:.3g}" if flops else "-",
            f"{memory:.2f} GB" if memory else "-",
        ]

    settings = report["settings"]
    what = (
        f"Training steps of {settings['batch_size']} examples of "
        f"{settings['segment_seconds']:g} s, {settings['precision']}"
    )
    headings = "network, parameters, step, examples/s, audio s/s, TFLOP/s, GPU memory"
    return timing.table(what, headings, report, cells)
