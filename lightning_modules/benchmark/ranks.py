"""What more ranks bring: training steps under DDP, by 1 to N processes.

Each rank has the same batch of noise on a GPU of its own, or on the CPU one thread of its own, so
that N ranks would make N times the examples if they cost each other nothing. Gradients are summed
by NCCL between GPUs, by gloo between CPUs; ``all-reduce`` is the time of that sum alone.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
from collections.abc import Callable
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
from lightning_modules.benchmark.networks import Ours
from lightning_modules.benchmark.step import settings_of, training_step
from lightning_modules.configuration.files import chain
from lightning_modules.runtime.process_pool import available_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument(
        "config", nargs="?", default="unet/small", help="config of the model (default unet/small)"
    )
    parser.add_argument(
        "--ranks", type=int, nargs="+", help="processes (default 1, 2, 4 ... as devices allow)"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="of each rank (default 4)")
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="crop (default 6)")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        ValueError: An option is not what it must be, or the config does not exist.
    """
    timing.check(options, "batch_size", "segment_seconds")
    chain(options.config)
    gpu = torch.device(options.device).type == "cuda"
    most = torch.cuda.device_count() if gpu else available_cores()
    if options.ranks is None:
        options.ranks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    if options.ranks[0] != 1 or min(options.ranks) < 1:
        raise DataError(f"--ranks is {options.ranks}: begin with 1, which the others are held to")
    if max(options.ranks) > most:
        raise DataError(
            f"--ranks has {max(options.ranks)}, there are {most} {'GPUs' if gpu else 'cores'}: "
            "ranks that share one would measure nothing; give no more"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all numbers of ranks, one after the other.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, on what and how, in JSON's types.
    """
    rows = []
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as folder:
            path = Path(folder, "times.pt")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            # Without the command's module, which does not travel.
            wanted = argparse.Namespace(**{k: v for k, v in vars(options).items() if k != "module"})
            spawn(_measure, (ranks, port, wanted, path), ranks)
            found = torch.load(path)
        rows.append(
            {
                "ranks": ranks,
                "seconds": found["step"],
                "examples_per_second": ranks * options.batch_size / found["step"],
                "all_reduce_seconds": found["all_reduce"],
                "gradient_bytes": found["bytes"],
            }
        )
    for row in rows:
        row["efficiency"] = row["examples_per_second"] / (
            row["ranks"] * rows[0]["examples_per_second"]
        )
    return {"settings": settings_of(options) | {"config": options.config}, "rows": rows}


class _Loss(nn.Module):
    """The loss as a forward pass, which is what DDP listens to."""

    def __init__(self, model: SourceSeparator) -> None:
        super().__init__()
        self.model = model

    def forward(self, mixture: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(Batch(mixture, targets))["loss"]


class _Parallel(Ours):
    """A model whose gradients are averaged over the ranks."""

    def __init__(self, name: str, settings: list[str], device: str) -> None:
        super().__init__(name, settings, device)
        self.parallel = DistributedDataParallel(_Loss(self.model), gradient_as_bucket_view=True)

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self.parallel(batch.mixture, batch.targets)
        return loss


def _measure(rank: int, ranks: int, port: int, options: argparse.Namespace, path: Path) -> None:
    """Measure one rank; the first one writes what it found."""
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
    entrant = (_Parallel if ranks > 1 else Ours)(options.config, settings, device)
    samples = round(options.segment_seconds * entrant.sample_rate)
    step = training_step(entrant, options.batch_size, samples, options.precision, device)
    gradients = torch.zeros(
        sum(p.numel() for p in entrant.network.parameters() if p.requires_grad), device=device
    )
    found = {
        "step": _median_seconds(step, options.repeats, device),
        "all_reduce": _median_seconds(
            lambda: distributed.all_reduce(gradients), options.repeats, device
        ),
        "bytes": gradients.numel() * gradients.element_size(),
    }
    if rank == 0:
        torch.save(found, path)
    distributed.destroy_process_group()


def _median_seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a run that all ranks begin together; the first is not counted."""
    times = []
    for _ in range(1 + repeats):
        distributed.barrier()
        times.append(timing.timed(run, device)[0])
    return statistics.median(times[1:])


def table(report: dict[str, Any]) -> str:
    """Write a report for people, as a Markdown table whose columns are aligned.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
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
    return "\n".join(
        [
            f"Training steps of {settings['config']} under DDP, {settings['batch_size']} examples "
            f"of {settings['segment_seconds']:g} s a rank, {settings['precision']}; "
            f"{settings['device']}, torch {settings['torch']}; median of {settings['repeats']}.",
            "",
            *markdown(lines),
        ]
    )
