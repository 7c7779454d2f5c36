"""Training batches on the device: how fast the data module delivers them, without a model.

Batches are read, copied to the device and, as int16, converted and augmented there. Reported are
examples per second, and the copied bytes per second as a share of what copies of one large tensor
from pinned memory reach.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from datamodules.augmentations import ChannelSwap, Gain
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.musdb import MUSDBDataModule
from datamodules.quiet import quiet
from lightning_modules.benchmark import timing
from lightning_modules.runtime.device import usable_device
from lightning_modules.runtime.process_pool import available_cores

_COPY_BYTES, _COPIES = 2**28, 8
_DTYPES = {"float32": False, "int16": True}  # of the copied samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; by default the demo corpus")
    parser.add_argument("--batch-size", type=int, default=16, help="default 16")
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="crop (default 6)")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help="worker processes (default: a quarter of the cores, all)",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of a run (default 10)")
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        DataError: A number is too small, or the device cannot be used.
    """
    timing.check_positive(options, "batch_size", "segment_seconds", "seconds")
    cores = available_cores()
    options.workers = options.workers or sorted({max(1, cores // 4), cores})
    if min(options.workers) < 0:
        raise DataError(f"--workers has {min(options.workers)}: give 0 or more")
    options.device = str(usable_device(options.device))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each number of workers and each type of samples."""
    rows = []
    with quiet():
        for workers in options.workers:
            for dtype, int16 in _DTYPES.items():
                rows.append(
                    {"workers": workers, "dtype": dtype, **_deliver(options, workers, int16)}
                )
    return {
        "settings": {
            **timing.machine(options.device),
            "data": str(options.root or "demo corpus"),
            "batch_size": options.batch_size,
            "segment_seconds": options.segment_seconds,
            "cores": available_cores(),
            "copy_bytes_per_second": copy_rate(options.device),
        },
        "rows": rows,
    }


def _deliver(options: argparse.Namespace, workers: int, int16: bool) -> dict[str, float]:
    """Read and copy batches for some seconds, after four that are not counted."""
    data = MUSDBDataModule(
        root=None if options.root is None else str(options.root),
        batch_size=options.batch_size,
        segment_seconds=options.segment_seconds,
        examples_per_epoch=10**6 // options.batch_size * options.batch_size,
        num_workers=workers,
        int16_to_device=int16,
        augmentations=[Gain(), ChannelSwap()],
    )
    data.prepare_data()
    data.setup("fit")
    device = torch.device(options.device)
    started, copied, batches = 0.0, 0, 0
    for number, batch in enumerate(data.train_dataloader()):
        moved = data.transfer_batch_to_device(batch, device, 0)
        data.on_after_batch_transfer(moved, 0)
        if number < 4:
            timing.synchronise(options.device)
            started = time.perf_counter()
            continue
        batches += 1
        copied += batch.stems.nbytes
        if time.perf_counter() - started > options.seconds:
            break
    timing.synchronise(options.device)
    seconds = time.perf_counter() - started
    return {
        "examples_per_second": batches * options.batch_size / seconds,
        "bytes_per_second": copied / seconds,
    }


def copy_rate(device: str) -> float:
    """Measure copies of one large tensor, from pinned memory to a GPU; bytes per second."""
    gpu = torch.device(device).type == "cuda"
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=gpu)
    target = torch.empty_like(source, device=device)
    times = [
        timing.timed(lambda: target.copy_(source, non_blocking=True), device)[0]
        for _ in range(_COPIES)
    ]
    return _COPY_BYTES / min(times)


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""
    settings, limit = report["settings"], report["settings"]["copy_bytes_per_second"]
    lines = [["workers", "copied as", "examples/s", "copied", "of plain copies"]]
    for row in report["rows"]:
        rate = row["bytes_per_second"]
        cells = f"{row['examples_per_second']:.3g}", f"{rate / 1e9:.3g} GB/s", f"{rate / limit:.0%}"
        lines.append([str(row["workers"]), row["dtype"], *cells])
    head = (
        f"Batches of {settings['batch_size']} examples of {settings['segment_seconds']:g} s, "
        f"{settings['data']}; {settings['device']}, {settings['cores']} cores, torch "
        f"{settings['torch']}; plain copies {limit / 1e9:.3g} GB/s."
    )
    return "\n".join([head, "", *markdown(lines)])
