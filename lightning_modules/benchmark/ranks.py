"""Scaling of DDP: training steps on 1 to N processes.

Each rank has the same batch of noise and its own GPU, or one CPU thread. Efficiency is the
throughput per rank relative to a single rank. Gradients are reduced by NCCL on GPUs and by gloo on
CPUs; ``all-reduce`` is the time of that reduction alone.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.markdown import markdown
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.benchmark import timing
from lightning_modules.benchmark.networks import ConfiguredModel
from lightning_modules.benchmark.step import training_step
from lightning_modules.configuration.files import chain
from lightning_modules.runtime.process_pool import available_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "config", nargs="?", default="unet/small", help="config of the model (default unet/small)"
    )
    parser.add_argument(
        "--ranks", type=int, nargs="+", help="processes (default 1, 2, 4 ... as devices allow)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="per rank (default 4)")
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="crop (default 6)")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Check the options and choose the numbers of ranks.

    Raises:
        ValueError: A number cannot be used, or the config does not exist.
    """
    timing.check(options, "batch_size", "segment_seconds")
    chain(options.config)
    gpu = torch.device(options.device).type == "cuda"
    most = torch.cuda.device_count() if gpu else available_cores()
    if options.ranks is None:
        options.ranks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    if options.ranks[0] != 1 or min(options.ranks) < 1:
        raise DataError(f"--ranks is {options.ranks}: begin with 1, the base of the efficiency")
    if max(options.ranks) > most:
        raise DataError(
            f"--ranks has {max(options.ranks)}, there are {most} {'GPUs' if gpu else 'cores'}: "
            "each rank needs its own; give no more"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each number of ranks; returns settings and rows in JSON's types."""
    # The command's module cannot be pickled.
    wanted = argparse.Namespace(**{k: v for k, v in vars(options).items() if k != "module"})
    rows: list[dict[str, Any]] = []
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as folder:
            path = Path(folder, "times.pt")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            spawn(_measure_rank, (ranks, port, wanted, path), ranks)
            row = {"ranks": ranks, **torch.load(path)}
        row["examples_per_second"] = ranks * options.batch_size / row["seconds"]
        rows.append(row)
        row["efficiency"] = row["examples_per_second"] / (ranks * rows[0]["examples_per_second"])
    return {"settings": timing.settings_of(options) | {"config": options.config}, "rows": rows}


class _Loss(nn.Module):
    """The loss as ``forward``, which DDP requires."""

    def __init__(self, model: SourceSeparator) -> None:
        super().__init__()
        self.model = model

    def forward(self, mixture: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(Batch(mixture, targets))["loss"]


class _ParallelModel(ConfiguredModel):
    """A model whose gradients are averaged over the ranks."""

    def __init__(self, name: str, settings: list[str], device: str) -> None:
        super().__init__(name, settings, device)
        self.parallel = DistributedDataParallel(_Loss(self.model), gradient_as_bucket_view=True)

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.parallel(batch.mixture, batch.targets)
        return loss


def _measure_rank(
    rank: int, ranks: int, port: int, options: argparse.Namespace, path: Path
) -> None:
    """Measure in one process; rank 0 writes the times."""
    gpu = torch.device(options.device).type == "cuda"
    device = f"cuda:{rank}" if gpu else options.device
    if gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    distributed.init_process_group(
        "nccl" if gpu else "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    settings = [f"--data.init_args.segment_seconds={options.segment_seconds:g}"]
    candidate = (_ParallelModel if ranks > 1 else ConfiguredModel)(options.config, settings, device)
    samples = round(options.segment_seconds * candidate.sample_rate)
    step = training_step(candidate, options.batch_size, samples, options.precision, device)
    gradients = torch.zeros(
        sum(p.numel() for p in candidate.network.parameters() if p.requires_grad), device=device
    )
    reduce = partial(distributed.all_reduce, gradients)
    found = {
        "seconds": _median_seconds(step, options.repeats, device),
        "all_reduce_seconds": _median_seconds(reduce, options.repeats, device),
        "gradient_bytes": gradients.numel() * gradients.element_size(),
    }
    if rank == 0:
        torch.save(found, path)
    distributed.destroy_process_group()


def _median_seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a function that all ranks start together; the first call is not counted."""
    times = []
    for _ in range(1 + repeats):
        distributed.barrier()
        times.append(timing.timed(run, device)[0])
    return statistics.median(times[1:])


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""
    settings = report["settings"]
    lines = [["ranks", "step", "examples/s", "efficiency", "gradients", "all-reduce"]]
    lines += [
        [
            str(row["ranks"]),
            f"{row['seconds']:.3g} s",
            f"{row['examples_per_second']:.3g}",
            f"{row['efficiency']:.0%}",
            f"{row['gradient_bytes'] / 1e6:.1f} MB",
            f"{row['all_reduce_seconds'] * 1000:.3g} ms" if row["ranks"] > 1 else "-",
        ]
        for row in report["rows"]
    ]
    head = (
        f"Training steps of {settings['config']} under DDP, {settings['batch_size']} examples of "
        f"{settings['segment_seconds']:g} s per rank, {settings['precision']}; "
        f"{settings['device']}, torch {settings['torch']}; median of {settings['repeats']}."
    )
    return "\n".join([head, "", *markdown(lines)])
