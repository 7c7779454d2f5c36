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
from datamodules.markdown import markdown
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
        _check_setting(setting, options.configs)


def _check_setting(setting: str, configs: list[str]) -> None:
    """Raise if no config accepts a setting: building a model is quick, measuring takes minutes."""
    for number, name in enumerate(configs, 1):
        try:
            build_model(name, [f"--{setting}"])
        except ConfigError as error:
            if number == len(configs):
                raise ConfigError(f"--also {setting}: {error}") from error
        else:
            return


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all candidates; returns settings and rows in JSON's types."""
    settings = [f"--data.init_args.segment_seconds={options.segment_seconds:g}"]
    makers = candidates_of(options.configs, options.peers, settings, options.device)
    for setting in options.also:
        also = candidates_of(options.configs, [], [*settings, f"--{setting}"], options.device)
        makers |= {f"{name}, {setting.rpartition('.')[2]}": maker for name, maker in also.items()}
    if options.channels_first:
        ours = candidates_of(options.configs, [], settings, options.device)
        makers |= {f"{name}, {_CHANNELS_FIRST}": maker for name, maker in ours.items()}
    candidates: dict[str, Candidate] = {}

    def prepare(name: str, make: Callable[[], Candidate]) -> Callable[[], object]:
        memory_format = torch.channels_last
        if name.endswith(_CHANNELS_FIRST):
            memory_format = torch.contiguous_format
        with patch.object(images, "memory_format", memory_format):
            candidates[name] = make()
        step = training_step(
            candidates[name],
            options.batch_size,
            round(options.segment_seconds * candidates[name].sample_rate),
            options.precision,
            options.device,
        )
        return patch.object(images, "memory_format", memory_format)(step)

    # Otherwise torch.compile treats models of one class as one model with dynamic shapes.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        measured = timing.time_interleaved(
            {name: partial(prepare, name, make) for name, make in makers.items()},
            options.repeats,
            options.device,
        )
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
    """Make a training step on noise.

    Args:
        candidate: The network.
        batch_size: Examples per batch.
        samples: Samples per example.
        precision: As in Lightning's trainer.
        device: Torch device.

    Returns:
        Function that runs one step.
    """
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
    settings = report["settings"]
    lines = [["network", "parameters", "step", "examples/s", "audio s/s", "TFLOP/s", "GPU memory"]]
    for name, row in report["rows"].items():
        if row["fault"]:
            lines.append([name, f"not measured: {row['fault']}", *[""] * 5])
            continue
        flops, memory = row["teraflops_per_second"], row["gpu_peak_gb"]
        lines.append(
            [
                name,
                f"{row['parameters']:,}",
                f"{row['seconds']:.3g} s",
                f"{row['examples_per_second']:.3g}",
                f"{row['audio_seconds_per_second']:.3g}",
                f"{flops:.3g}" if flops else "-",
                f"{memory:.2f} GB" if memory else "-",
            ]
        )
    head = (
        f"Training steps of {settings['batch_size']} examples of "
        f"{settings['segment_seconds']:g} s, {settings['precision']}; {timing.conditions(settings)}"
    )
    return "\n".join([head, "", *markdown(lines)])
