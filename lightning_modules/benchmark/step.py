"""What a training step costs: forward pass, backward pass and optimiser, on noise in memory.

Models of this project's configs beside networks of other projects, all with batches of one size,
in turn; figures are medians. No data are read, so this is what the loader has to keep up with.
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
    Entrant,
    add_entrants,
    check_entrants,
    entrants_of,
)
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import ConfigError
from lightning_modules.layers import images

_CHANNELS_FIRST = "channels first"
_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    add_entrants(parser)
    parser.add_argument("--batch-size", type=int, default=4, help="default 4")
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="crop (default 6)")
    parser.add_argument("--precision", choices=list(_PRECISIONS), default="32-true")
    parser.add_argument(
        "--also", action="append", default=[], metavar="SETTING",
        help="each config once more with this, such as model.init_args.compiled=true; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--channels-first", action="store_true",
        help="each config once more with images' channels outermost in memory",
    )  # fmt: skip
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        ValueError: An option is not what it must be, or a config does not exist.
    """
    timing.check(options, "batch_size", "segment_seconds")
    check_entrants(options)
    for setting in options.also:
        _check_fits_one(setting, options.configs)


def _check_fits_one(setting: str, names: list[str]) -> None:
    """Refuse a setting that no config takes; building a model takes a moment, measuring minutes."""
    for number, name in enumerate(names, 1):
        try:
            build_model(name, [f"--{setting}"])
        except ConfigError as error:
            if number == len(names):
                raise ConfigError(f"--also {setting}: {error}") from error
        else:
            return


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, on what and how, in JSON's types.
    """
    settings = [f"--data.init_args.segment_seconds={options.segment_seconds:g}"]
    makers = entrants_of(options.configs, options.peers, settings, options.device)
    for setting in options.also:
        also = entrants_of(options.configs, [], [*settings, f"--{setting}"], options.device)
        makers |= {f"{name}, {setting.rpartition('.')[2]}": maker for name, maker in also.items()}
    if options.channels_first:
        ours = entrants_of(options.configs, [], settings, options.device)
        makers |= {f"{name}, {_CHANNELS_FIRST}": maker for name, maker in ours.items()}
    entrants: dict[str, Entrant] = {}

    def prepare(name: str, make: Callable[[], Entrant]) -> Callable[[], object]:
        memory_format = torch.channels_last
        if name.endswith(_CHANNELS_FIRST):
            memory_format = torch.contiguous_format
        with patch.object(images, "memory_format", memory_format):
            entrants[name] = make()
        step = training_step(
            entrants[name],
            options.batch_size,
            round(options.segment_seconds * entrants[name].sample_rate),
            options.precision,
            options.device,
        )
        return patch.object(images, "memory_format", memory_format)(step)

    # Compiled networks of one class would pass for one network whose shapes change.
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
            entrant = entrants[name]
            samples = options.batch_size * round(options.segment_seconds * entrant.sample_rate)
            row |= {
                "parameters": sum(p.numel() for p in entrant.network.parameters()),
                "examples_per_second": options.batch_size / timed.median,
                "audio_seconds_per_second": samples / entrant.sample_rate / timed.median,
                "teraflops_per_second": 3 * entrant.flops * samples / timed.median / 1e12,
                "gpu_peak_gb": timed.peak_bytes / 1e9,
            }
        rows[name] = row
    return {"settings": settings_of(options), "rows": rows}


def training_step(
    entrant: Entrant, batch_size: int, samples: int, precision: str, device: str
) -> Callable[[], object]:
    """Make a training step on noise.

    Args:
        entrant: The network.
        batch_size: Examples in a batch.
        samples: Samples of an example.
        precision: As of Lightning's trainer.
        device: Torch device.

    Returns:
        The step.
    """
    random = torch.Generator().manual_seed(0)
    shape = (batch_size, entrant.sources, entrant.channels, samples)
    targets = (0.1 * torch.randn(shape, generator=random)).to(device)
    batch = Batch(targets.sum(1), targets)
    optimizer = entrant.make_optimizer()
    dtype = _PRECISIONS[precision]
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    entrant.network.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            loss = entrant.loss(batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Tell what figures were measured with, in JSON's types.

    Args:
        options: What was asked for.
    """
    gpu = torch.device(options.device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(options.device) if gpu else "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    } | {
        name: value
        for name, value in vars(options).items()
        if name in ("batch_size", "segment_seconds", "precision", "repeats", "track_seconds")
    }


def table(report: dict[str, Any]) -> str:
    """Write a report for people, as a Markdown table whose columns are aligned.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
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
    return "\n".join(
        [
            f"Training steps of {settings['batch_size']} examples of "
            f"{settings['segment_seconds']:g} s, {settings['precision']}; {settings['device']}, "
            f"{settings['threads']} threads, torch {settings['torch']}; median of "
            f"{settings['repeats']}.",
            "",
            *markdown(lines),
        ]
    )
