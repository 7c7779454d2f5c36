"""Training throughput, and the share of time of each part of a step."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from datamodules.errors import counted
from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.time_left import TimeLeft
from lightning_modules.runtime.memory import peak_memory

# Lightning's names of profiled actions -> names of the parts of a step.
_PARTS = {
    "train_dataloader_next": "data",
    "batch_to_device": "transfer",  # and the augmentations on the device
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
}
PARTS = tuple(_PARTS.values())
TIME_LEFT = "train/hours_left"
# Share of time waiting for data above which a hint is printed.
_MAX_DATA_WAIT = 0.1


class StepTimes(Profiler):
    """Profiler that sums the time of each part of the training steps.

    A GPU runs asynchronously, so its parts are measured by CUDA events, but waiting for data on
    the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self._on_gpu = torch.cuda.is_available()
        self.reset()

    def reset(self) -> None:
        """Set all times to 0."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, str | None, torch.cuda.Event, torch.cuda.Event]] = []
        self._running: list[tuple[str, str, float, torch.cuda.Event | None]] = []

    def start(self, action_name: str) -> None:
        """Start the timer of an action."""
        part = _PARTS.get(action_name.rpartition(".")[2])
        if part is not None and self.active:
            self._running.append((action_name, part, time.perf_counter(), self._event(part)))

    def stop(self, action_name: str) -> None:
        """Add the time of an action, less that of actions inside it (backward in the step)."""
        if not self._running or self._running[-1][0] != action_name:
            return
        _, part, began, first = self._running.pop()
        outer = self._running[-1][1] if self._running else None
        last = self._event(part)
        if first is not None and last is not None:
            self._events.append((part, outer, first, last))
        else:
            self._add(part, outer, time.perf_counter() - began)

    def seconds(self) -> dict[str, float]:
        """Time of each part since the last reset, seconds; waits for the device."""
        for part, outer, first, last in self._events:
            last.synchronize()
            self._add(part, outer, first.elapsed_time(last) / 1000)
        self._events.clear()
        return dict(self._seconds)

    def _event(self, part: str) -> torch.cuda.Event | None:
        if part == "data" or not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _add(self, part: str, outer: str | None, seconds: float) -> None:
        self._seconds[part] += seconds
        if outer is not None:
            self._seconds[outer] -= seconds


class Throughput(Callback):
    """Log training throughput and the share of time of each part; print a line per epoch.

    Logged every ``log_every_n_steps`` steps, over the steps since: ``train/examples_per_second``,
    ``train/audio_seconds_per_second`` and ``train/teraflops_per_second`` over all ranks;
    ``train/hours_left`` of the whole run, see `TimeLeft`; the peak memory so far, on a GPU
    ``train/gpu_memory_gb``, else ``train/memory_gb`` of the first rank's process. Unless the
    trainer has another profiler, also shares of the time in [0, 1]: ``train/data_wait`` and
    ``train/share/<part>`` for ``transfer``, ``forward``, ``backward`` and ``optimizer``. The first
    step of an epoch, which waits for the loader to start, is left out.

    A training step counts as three forward passes (one forward, two backward), of which
    convolutions, matrix products and recurrent layers are counted; see ``base/flops.py``.
    """

    def __init__(self) -> None:
        self._times = StepTimes()
        self._parts_are_measured = False
        self._flops = 0.0
        self._validation_began = 0.0
        self._left = TimeLeft()
        self._restart()

    def _restart(self) -> None:
        """Start an epoch: measuring begins after its first step."""
        self._ended: float | None = None
        # Sums over steps of this rank: seconds, examples, samples, and the seconds of each part.
        self._epoch: dict[str, float] = defaultdict(float)
        self._recent: dict[str, float] = defaultdict(float)
        self._validation_seconds = 0.0
        self._batches = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the profiler, unless the trainer has another one."""
        if isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
            trainer.profiler = self._times  # type: ignore[attr-defined]
        self._parts_are_measured = trainer.profiler is self._times  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the floating-point operations of a training step."""
        assert isinstance(pl_module, SourceSeparator)
        self._flops = 3 * forward_flops(pl_module)
        self._left = TimeLeft()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to measure an epoch."""
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the validation from the steps."""
        self._take_times()
        self._times.active = False
        self._validation_began = time.perf_counter()
        self._ended = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the duration of the validation."""
        seconds = time.perf_counter() - self._validation_began
        self._validation_seconds += seconds
        self._left.add_validation(seconds)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the step; log after every ``log_every_n_steps``."""
        now = time.perf_counter()
        self._batches = batch_idx + 1
        if self._ended is None:
            self._times.reset()
            self._times.active = True
        else:
            assert isinstance(pl_module, SourceSeparator)
            examples, _, samples = batch.mixture.shape
            self._left.add_batch(now - self._ended)
            step = {"seconds": now - self._ended, "examples": examples}
            _add(self._recent, step | {"samples": examples * samples})
            if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._take_times()
                pl_module.log_dict(self._metrics(self._recent, trainer, pl_module))
                _add(self._epoch, self._recent)
                self._recent.clear()
        self._ended = time.perf_counter()

    def _take_times(self) -> None:
        if self._parts_are_measured:
            _add(self._recent, self._times.seconds())
            self._times.reset()

    def _metrics(
        self,
        steps: dict[str, float],
        trainer: Trainer,
        model: SourceSeparator,
        validated: bool = False,
    ) -> dict[str, float]:
        seconds, examples = steps["seconds"], trainer.world_size * steps["examples"]
        samples = trainer.world_size * steps["samples"]
        metrics = {
            "train/examples_per_second": examples / seconds,
            "train/audio_seconds_per_second": samples / model.sample_rate / seconds,
            "train/teraflops_per_second": samples * self._flops / seconds / 1e12,
        }
        for part in PARTS if self._parts_are_measured else ():
            name = "train/data_wait" if part == "data" else f"train/share/{part}"
            metrics[name] = steps[part] / seconds
        if model.device.type == "cuda":
            metrics["train/gpu_memory_gb"] = torch.cuda.max_memory_allocated(model.device) / 1e9
        else:
            metrics["train/memory_gb"] = peak_memory() / 1e9
        left = self._left.seconds(trainer, self._batches, validated) / 3600
        return metrics if math.isnan(left) else metrics | {TIME_LEFT: left}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's throughput."""
        assert isinstance(pl_module, SourceSeparator)
        self._times.active = False
        if self._recent["seconds"]:
            self._take_times()
            _add(self._epoch, self._recent)
        if self._epoch["seconds"]:
            metrics = self._metrics(self._epoch, trainer, pl_module, validated=True)
            trainer.print(self._line(metrics, trainer))

    def _line(self, metrics: dict[str, float], trainer: Trainer) -> str:
        examples = metrics["train/examples_per_second"]
        each = f" ({examples / trainer.world_size:.1f} per rank)" if trainer.world_size > 1 else ""
        columns = [
            f"Epoch {trainer.current_epoch}: {examples:.1f} examples/s{each}, "
            f"{metrics['train/audio_seconds_per_second']:.0f} s of audio/s"
        ]
        if self._parts_are_measured:
            shares = {part: self._epoch[part] / self._epoch["seconds"] for part in PARTS}
            shares["rest"] = max(0.0, 1 - sum(shares.values()))
            columns.append(", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
        columns.append(f"{metrics['train/teraflops_per_second']:.3g} TFLOP/s")
        for name in ("train/gpu_memory_gb", "train/memory_gb"):
            if name in metrics:
                columns.append(f"{metrics[name]:.1f} GB")
        if self._validation_seconds:
            scoring = trainer.callback_metrics.get("val/scoring_seconds")
            scored = "" if scoring is None else f", of which scoring {float(scoring):.1f} s"
            columns.append(f"validation {self._validation_seconds:.1f} s{scored}")
        if seconds := 3600 * metrics.get(TIME_LEFT, 0):
            columns.append(f"{format_seconds(seconds)} left")
        line = " | ".join(columns)
        wait = metrics.get("train/data_wait", 0.0)
        if wait > _MAX_DATA_WAIT:
            workers = getattr(trainer.datamodule, "num_workers", 0)  # type: ignore[attr-defined]
            line += (
                f"\nTraining waits for data {wait:.0%} of its time: raise "
                f"--data.init_args.num_workers (now {workers}), keep the data or the cache "
                "(STEMLAB_CACHE) on a local disk, or shorten segment_seconds"
            )
        return line


def format_seconds(seconds: float) -> str:
    """Format a duration: ``02:05``, with hours ``3:02:05``, with days ``4 days 03:02``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{counted(days, 'day')} {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] += value
