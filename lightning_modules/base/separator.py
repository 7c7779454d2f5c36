"""Base class of all architectures: the interface, training steps and checkpoints."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.batches import Batch, TrackBatch
from datamodules.files.find import SongFile
from datamodules.files.source_names import check_source_names
from lightning_modules.base import description
from lightning_modules.base.parameter_groups import (
    check_group_settings,
    create_optimizer,
    freeze,
    freeze_statistics,
    group_parameters,
)
from lightning_modules.inference.options import Edges
from lightning_modules.inference.options import Window as OverlapWindow
from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor
from lightning_modules.inference.separation import SeparationSettings, check_waveform, separate
from lightning_modules.inference.stem_files import StemFiles, separate_file
from lightning_modules.layers.lora import LoRA, add_adapters, merge_adapters, split_adapters

# Type, lowest and highest value of arguments. The bounds are beyond any use, and refuse what no
# machine can compute; checkpoints of others may contain anything.
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "sample_rate": (Integral, 1000, 1_000_000),
    "audio_channels": (Integral, 1, 64),
    "segment_seconds": (Real, 1e-4, 600),
    "chunk_seconds": (Real, 1e-4, 600),
    "chunks_at_once": (Integral, 1, 4096),
}
OptimizerCallable = Callable[[Any], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class SourceSeparator(LightningModule, ABC):
    """A model that splits a mixture into sources.

    Subclasses define ``forward`` and ``loss``. This class provides training steps, logging,
    optimisers and checkpoints.

    Args:
        sources: Names of the sources, in the order of the estimates.
        sample_rate: Sample rate of mixture and estimates, Hz.
        audio_channels: Channels of mixture and estimates.
        segment_seconds: Length of a training crop, seconds; also the default of
            ``chunk_seconds``.
        chunk_seconds: Length of the chunks into which a song is cut for separation, seconds; by
            default ``segment_seconds``. Set it for models trained on crops of a few frames.
        optimizer: Function that creates the optimiser from the model's parameters.
        lr_scheduler: Function that creates the learning rate scheduler from the optimiser.
            Schedulers such as ``ReduceLROnPlateau`` receive ``val/loss``.
        overlap: Fraction of a chunk that overlaps with the next one in separation, in [0, 1).
        chunks_at_once: Number of chunks per forward pass in separation.
        compiled: Whether to compile the networks with ``torch.compile``. Compilation takes
            minutes at the start; training steps are then faster. Weights and checkpoints stay the
            same.
        shifts: Number of randomly delayed copies of the mixture whose estimates are averaged in
            separation (the shift trick of Demucs). The cost grows in proportion. 0 disables it.
        postprocessing: Post-processing of the estimates in separation; by default none.
        overlap_window: Weights of overlapping chunks in separation: ``crossfade``, ``hann``,
            ``triangle`` (Demucs), ``ramps`` (MSST) or ``mean``.
        edges: What completes chunks at the ends of a song: ``zeros``, ``reflect`` (MSST) or
            ``context`` (Demucs).
        circular_shifts: Number of circularly shifted copies of the mixture whose estimates are
            averaged in separation (MSST's ``bigshifts``). 0 disables it.
        test_time_augmentation: Average estimates with those of swapped channels and inverted
            polarity in separation, at three times the cost.
        normalise_mixture: Separate songs with zero mean and unit deviation; see
            ``SeparationSettings``.
        pretrained: Weights to start training from, in any format that
            ``fine_tuning.load_pretrained`` reads; ``fit`` on the command line loads them.
        parameter_groups: Settings of the optimiser for the weights in whose names a regular
            expression is found, such as ``weight_decay``; the first that is found counts.
            ``lr_factor`` multiplies the learning rate, and 0 freezes the weights.
        lora: Low-rank adapters, which are trained in place of the pretrained weights; checkpoints
            hold the sum of both as the model's weights. By default none.

    Attributes:
        segment_seconds: Length of a chunk in separation, seconds: the argument ``chunk_seconds``,
            or by default ``segment_seconds``.
        separation_settings: Settings of separation, which may be replaced.
        step_is_skipped: Whether the current optimiser step is skipped. A callback sets it, to the
            same value on all ranks.
    """

    tiny: ClassVar[Mapping[str, Any]]
    """Arguments of a very small model for tests."""
    changeable_hparams: frozenset[str] = frozenset({
        "segment_seconds", "chunk_seconds", "overlap", "chunks_at_once", "compiled", "shifts",
        "postprocessing", "overlap_window", "edges", "circular_shifts", "test_time_augmentation",
        "normalise_mixture",
    })  # fmt: skip
    """Arguments that may differ between a checkpoint and the model that loads it."""
    fixed_arguments: frozenset[str] = frozenset()
    """Arguments of a parent class that this class sets itself and does not accept."""
    loads_weights: ClassVar[bool] = False
    """Whether the arguments name the weights: the model consists of trained models."""
    loss_buffers: frozenset[str] = frozenset()
    """Buffers that belong to the loss, not to the model: fine-tuning does not copy them."""

    def __init__(
        self,
        sources: list[str],
        sample_rate: int = 44100,
        audio_channels: int = 2,
        segment_seconds: float = 6.0,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        overlap: float = 0.25,
        chunks_at_once: int = 4,
        compiled: bool = False,
        chunk_seconds: float | None = None,
        shifts: int = 0,
        postprocessing: PostProcessing | None = None,
        pretrained: str | None = None,
        overlap_window: OverlapWindow = "crossfade",
        edges: Edges = "zeros",
        circular_shifts: int = 0,
        test_time_augmentation: bool = False,
        normalise_mixture: bool = False,
        parameter_groups: dict[str, dict[str, float]] | None = None,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__()
        check_group_settings(parameter_groups or {})
        if lora is not None and pretrained is None:
            raise ValueError("lora adapts trained weights: give them as pretrained")
        self.sources = check_source_names(sources)
        chunk = segment_seconds if chunk_seconds is None else chunk_seconds
        _check_ranges(
            sample_rate=sample_rate,
            audio_channels=audio_channels,
            segment_seconds=segment_seconds,
            chunk_seconds=chunk,
            chunks_at_once=chunks_at_once,
        )
        PostProcessor(postprocessing or {}, sources, sample_rate)  # checks the settings
        # Training arguments, such as the optimiser, are not needed to rebuild the model, and some
        # are not plain data.
        self.save_hyperparameters(ignore=[*description.TRAINING_ARGUMENTS, *self.fixed_arguments])
        self.sample_rate, self.audio_channels = sample_rate, audio_channels
        for name, value in self.hparams.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: expected a finite number")
        # From here on the chunk length of `separate`: the data module has that of training crops.
        self.segment_seconds = chunk
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.separation_settings = SeparationSettings(
            overlap, overlap_window, edges, chunks_at_once, shifts, circular_shifts,
            test_time_augmentation, normalise_mixture, postprocessing,
        )  # fmt: skip
        self.compiled, self.pretrained = compiled, pretrained
        self.parameter_groups, self.lora = parameter_groups or {}, lora
        self._is_adapted = False
        self.step_is_skipped = False

    @abstractmethod
    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, shape (B, C, T), usually in [-1, 1].

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """

    def network_input(self, mixture: Tensor) -> Tensor:
        """Compute the network's input, for example an STFT; ONNX exports leave this part out.

        Args:
            mixture: Waveform, shape (B, C, T).

        Returns:
            Input of the network, by default the mixture; first axis batch, last axis time.
        """
        return mixture

    def network_forward(self, features: Tensor) -> Tensor:
        """Run only the network, without the transforms before and after it.

        Args:
            features: Output of ``network_input``.

        Returns:
            By default the estimates, shape (B, S, C, T).
        """
        return cast(Tensor, self(features))

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the training loss.

        Args:
            batch: Mixture (B, C, T) and targets (B, S, C, T).

        Returns:
            Scalars by name: ``loss`` is minimised; ``loss/<part>`` are only logged.
        """

    def source_losses(self, losses: Tensor) -> dict[str, Tensor]:
        """Return the losses (S,) of the sources under the names ``loss/<source>``."""
        return {f"loss/{name}": part for name, part in zip(self.sources, losses, strict=True)}

    def separate(self, mixture: Tensor, sample_rate: int | None = None) -> Tensor:
        """Separate audio of any length.

        Args:
            mixture: Waveform, shape (C, T).
            sample_rate: Sample rate of the mixture, Hz; by default the model's.

        Returns:
            Estimates at the mixture's sample rate, shape (S, C, T).

        Raises:
            ValueError: The mixture is not a tensor of this shape.
        """
        check_waveform(mixture)
        return separate(
            self,
            mixture.to(self.device),
            sample_rate,
            self.separation_settings,
        )

    def separate_track(self, track: TrackBatch) -> Tensor:
        """Separate a complete track at its own sample rate; returns the estimates, (S, C, T)."""
        return self.separate(track.mixture, track.sample_rate)

    # ----------------------------------------------------------------- steps

    def prepare_training(self) -> str:
        """Add low-rank adapters and freeze weights as configured; later calls do nothing.

        It is called by ``fit``, on the command line before the callbacks' ``setup``: averages of
        the weights are created there.

        Returns:
            What the adapters are, for the user; empty without them.

        Raises:
            ValueError: A regular expression matches no weights.
        """
        if self._is_adapted:
            return ""
        self._is_adapted = True
        text = ""
        if self.lora is not None:
            text = add_adapters(self, self.lora)
            freeze_statistics(self)
        if self.parameter_groups:
            freeze(self, self.parameter_groups)
        return text

    def setup(self, stage: str) -> None:
        """Freeze what is not trained; compile the networks if ``compiled`` is set."""
        if stage == "fit":
            self.prepare_training()
        if self.compiled:
            for network in _networks(self):
                network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the loss as ``train/loss``."""
        return self._log_loss("train", batch)

    def on_validation_epoch_start(self) -> None:
        """Copy the first rank's buffers, such as batch norm statistics, to all ranks.

        Checkpoints contain the first rank's buffers; so all ranks validate what is saved.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(
        self, batch: Batch | TrackBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Log ``val/loss`` of a batch of crops, or return the estimates of a complete track."""
        if isinstance(batch, TrackBatch):
            return {"estimates": self.separate_track(batch)}
        self._log_loss("val", batch)
        return None

    def test_step(self, batch: TrackBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the estimates of a complete track; a callback scores them."""
        return {"estimates": self.separate_track(batch)}

    def predict_step(self, batch: TrackBatch | SongFile, batch_idx: int) -> None:
        """Separate a track or an audio file to ``estimates/<track>/`` in the run's directory."""
        folder = Path(self.trainer.default_root_dir) / "estimates"
        if isinstance(batch, SongFile):
            place = folder / batch.folder / batch.name
            if shortfall := separate_file(self, batch.path, place, force=True).shortfall:
                print(f"warning: {shortfall}", file=sys.stderr)
            return
        estimates = self.separate_track(batch).cpu().numpy()
        size = (batch.sample_rate, estimates.shape[1])
        with StemFiles(folder / batch.name, self.sources, *size, force=True) as files:
            files.write(estimates)

    def on_predict_end(self) -> None:
        """Print the folder of the estimates."""
        self.print(f"Estimates are in {Path(self.trainer.default_root_dir) / 'estimates'}")

    def _log_loss(self, stage: str, batch: Batch) -> Tensor:
        losses = self.loss(batch)
        training = stage == "train"
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in losses.items()},
            on_step=training,
            on_epoch=not training,
            sync_dist=not training,
            batch_size=batch.mixture.shape[0],
            add_dataloader_idx=False,
        )
        return losses["loss"]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients unless the step is skipped."""
        if not self.step_is_skipped:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update the weights unless the step is skipped."""
        assert optimizer_closure is not None
        # Forward and backward pass. Usually the optimiser calls them, but only after them is it
        # known whether the step is skipped.
        loss = optimizer_closure()
        if not self.step_is_skipped:
            super().optimizer_step(epoch, batch_idx, optimizer, lambda: loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradients, and the learning rate of each group of weights."""
        # Only in steps whose metrics Lightning logs, because the norm takes time.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            names = [f"/{number}" for number in range(1, len(rates) + 1)] if rates[1:] else [""]
            for name, rate in zip(names, rates, strict=True):
                self.log(f"train/lr{name}", rate)

    def create_optimizer(self) -> Optimizer:
        """Create the optimiser of the model's weights, with ``parameter_groups``."""
        return create_optimizer(self.optimizer, group_parameters(self, self.parameter_groups))

    def configure_optimizers(self) -> Any:
        """Create optimiser and scheduler."""
        optimizer = self.create_optimizer()
        if self.lr_scheduler is None:
            return optimizer
        # Not strict: Lightning would raise where the metric is missing, between validations.
        made = self.lr_scheduler(optimizer)
        scheduler = {"monitor": "val/loss", "strict": False, "scheduler": made}
        scheduler["interval"] = getattr(made, "interval", "epoch")
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # ----------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description from which ``load_separator`` builds the model."""
        checkpoint[description.KEY] = description.describe(self)
        if self.lora is not None and self._is_adapted:
            state = checkpoint["state_dict"]
            merged = checkpoint["state_dict"] = merge_adapters(state, self.lora)
            checkpoint["lora"] = {name: state[name] for name in state if name not in merged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise if the checkpoint belongs to a different model, before any weights are loaded."""
        description.check_same_model(checkpoint, self)
        if self.lora is not None and self._is_adapted:
            adapters = checkpoint.get("lora", {})
            checkpoint["state_dict"] = split_adapters(checkpoint["state_dict"], adapters)


def _check_ranges(**arguments: Any) -> None:
    """Raise ``ValueError`` unless each argument is in its range."""
    for name, value in arguments.items():
        kind, lowest, highest = _RANGES[name]
        if not isinstance(value, kind) or not lowest <= value <= highest:  # type: ignore[operator]
            number = "an integer" if kind is Integral else "a number"
            raise ValueError(
                f"{name} is {value!r:.80}: expected {number} from {lowest:g} to {highest:,}"
            )


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the submodules with parameters.

    Of a ``ModuleList`` or ``ModuleDict``, whose ``forward`` is never called, yield the elements.
    """
    for part in module.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _networks(part)
        elif next(part.parameters(), None) is not None:
            yield part
