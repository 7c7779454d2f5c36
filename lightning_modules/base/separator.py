"""Base class of all architectures: the interface, training steps and checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.batches import Batch, TrackBatch
from datamodules.files.find import song_name
from lightning_modules.base import description
from lightning_modules.inference.overlap_add import check_overlap
from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor
from lightning_modules.inference.separation import separate
from lightning_modules.inference.shifts import check_shifts
from lightning_modules.inference.stem_files import StemFiles, separate_file

OptimizerCallable = Callable[[Any], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class SourceSeparator(LightningModule, ABC):
    """A model that splits a mixture into sources.

    A subclass defines ``forward`` and ``loss``; this class defines steps, logging, optimisers
    and checkpoints.

    Args:
        sources: Names of the sources, in the order of the estimates.
        sample_rate: Sample rate of mixture and estimates, Hz.
        audio_channels: Channels of mixture and estimates.
        segment_seconds: Length of a training crop, seconds.
        chunk_seconds: Length of a chunk in separation, seconds; by default that of a training
            crop. Models trained on a few frames use longer chunks.
        optimizer: Creates the optimiser from the parameters.
        lr_scheduler: Creates the learning rate scheduler from the optimiser. A scheduler that
            monitors a metric monitors ``val/loss``.
        overlap: Fraction of a chunk that separation cross-fades with the next, in [0, 0.5].
        chunks_at_once: Chunks per forward pass in separation.
        compiled: Compile the networks with ``torch.compile``: takes minutes at the start and makes
            steps faster. Weights and checkpoints stay the same.
        shifts: Number of random delays of the mixture that separation averages over, at as many
            times the cost (the shift trick of Demucs); 0 separates it once, undelayed.
        postprocessing: Post-processing of the estimates in separation; by default none.
        pretrained: Weights to start training from, in any format that
            ``fine_tuning.load_pretrained`` reads; ``fit`` on the command line loads them.

    Attributes:
        segment_seconds: Length of a chunk in separation, seconds.
        step_is_skipped: Set by a callback to skip the current step of the optimiser, on all ranks.
    """

    tiny: ClassVar[Mapping[str, Any]]
    """Arguments of a model small enough to train in a second."""
    changeable_hparams: frozenset[str] = frozenset({
        "segment_seconds", "chunk_seconds", "overlap", "chunks_at_once", "compiled", "shifts",
        "postprocessing",
    })  # fmt: skip
    """Arguments that may differ from those of the training."""
    fixed_arguments: frozenset[str] = frozenset()
    """Arguments of a parent class that the class sets itself, so that users cannot."""
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
    ) -> None:
        super().__init__()
        if min(sample_rate, audio_channels) < 1:
            raise ValueError(
                f"sample_rate is {sample_rate} and audio_channels {audio_channels}: give positive "
                "numbers"
            )
        check_overlap(overlap)
        check_shifts(shifts)
        PostProcessor(postprocessing or {}, sources, sample_rate)  # checks the settings
        chunk = segment_seconds if chunk_seconds is None else chunk_seconds
        if chunks_at_once < 1 or min(segment_seconds, chunk) <= 0:
            raise ValueError(
                f"chunks_at_once is {chunks_at_once}, segment_seconds {segment_seconds} and "
                f"chunk_seconds {chunk_seconds}: give values above 0"
            )
        # Arguments of the training are not plain data, and reloading does not need them.
        self.save_hyperparameters(ignore=[*description.TRAINING_ARGUMENTS, *self.fixed_arguments])
        self.sources = list(sources)
        self.sample_rate, self.audio_channels = sample_rate, audio_channels
        # Chunk length used by `separate`; the data module has the training crop length.
        self.segment_seconds = chunk
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.overlap, self.chunks_at_once = overlap, chunks_at_once
        self.shifts, self.postprocessing = shifts, postprocessing
        self.compiled, self.pretrained = compiled, pretrained
        self.step_is_skipped = False

    @abstractmethod
    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """

    def network_input(self, mixture: Tensor) -> Tensor:
        """Compute the network's input: transforms, such as an STFT, that ONNX exports leave out.

        Args:
            mixture: Waveform, shape (B, C, T).

        Returns:
            By default the mixture itself; the first axis is the batch, the last one is time.
        """
        return mixture

    def network_forward(self, features: Tensor) -> Tensor:
        """Run the network alone, between the transforms and their inverse.

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
            Scalars: ``loss``, which is minimised, and parts of it to log as ``loss/<part>``.
        """

    def source_losses(self, losses: Tensor) -> dict[str, Tensor]:
        """Map losses (S,) to the names under which they are logged, ``loss/<source>``."""
        return {f"loss/{name}": part for name, part in zip(self.sources, losses, strict=True)}

    def separate(self, mixture: Tensor, sample_rate: int | None = None) -> Tensor:
        """Separate audio of any length.

        Args:
            mixture: Waveform, shape (C, T).
            sample_rate: Its rate, Hz; by default the model's.

        Returns:
            Estimates, shape (S, C, T).
        """
        return separate(
            self,
            mixture.to(self.device),
            sample_rate,
            overlap=self.overlap,
            batch_size=self.chunks_at_once,
            shifts=self.shifts,
            postprocessing=self.postprocessing,
        )

    # ----------------------------------------------------------------- steps

    def setup(self, stage: str) -> None:
        """Compile the networks if ``compiled`` is set."""
        if self.compiled:
            for network in _networks(self):
                network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the loss as ``train/loss``."""
        return self._log_loss("train", batch)

    def on_validation_epoch_start(self) -> None:
        """Make all ranks validate with the first rank's buffers, which are the ones saved."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(
        self, batch: Batch | TrackBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Log ``val/loss`` of crops; separate complete tracks for the scoring callbacks."""
        if isinstance(batch, TrackBatch):
            return {"estimates": self.separate(batch.mixture)}
        self._log_loss("val", batch)
        return None

    def test_step(self, batch: TrackBatch, batch_idx: int) -> dict[str, Tensor]:
        """Separate a complete track for the scoring callbacks."""
        return {"estimates": self.separate(batch.mixture)}

    def predict_step(self, batch: TrackBatch | Path, batch_idx: int) -> None:
        """Separate a track or an audio file to ``estimates/<track>/`` in the run's directory."""
        folder = Path(self.trainer.default_root_dir) / "estimates"
        if isinstance(batch, Path):
            separate_file(self, batch, folder / song_name(batch), force=True)
            return
        estimates = self.separate(batch.mixture).cpu().numpy()
        rate, channels = self.sample_rate, estimates.shape[1]
        with StemFiles(folder / batch.name, self.sources, rate, channels, force=True) as files:
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
        """Make a step unless it is skipped."""
        assert optimizer_closure is not None
        # Forward and backward pass, otherwise called by the optimiser.
        loss = optimizer_closure()
        if not self.step_is_skipped:
            super().optimizer_step(epoch, batch_idx, optimizer, lambda: loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradients."""
        # Computed only in the steps that Lightning logs.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> Any:
        """Create optimiser and scheduler."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        # Not strict, since a monitored metric is missing between validations.
        scheduler = {"monitor": "val/loss", "strict": False}
        scheduler["scheduler"] = self.lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # ----------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description from which ``load_separator`` builds the model."""
        checkpoint[description.KEY] = description.describe(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise if the checkpoint is of another model, before any weights change."""
        description.check_same_model(checkpoint, self)


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the children with parameters, and those of lists and dicts, which are never called."""
    for part in module.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _networks(part)
        elif next(part.parameters(), None) is not None:
            yield part
