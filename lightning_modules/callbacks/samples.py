"""Audio and plots of one track, every few epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from datamodules.batches import TrackBatch
from datamodules.files.audio import Audio
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.optional_files import OptionalFiles
from lightning_modules.callbacks.run_files import run_folder, state_name
from lightning_modules.plots import sound, style

_PLOTS = {
    "spectrograms": sound.spectrogram_figure,
    "masks": sound.mask_figure,
    "waveforms": sound.waveform_figure,
}


class Samples(Callback):
    """Save spectrograms, masks, waveforms and audio of mixture, references and estimates.

    Plots are saved to ``pictures/`` of the run, and plots and audio logged to Weights & Biases
    or TensorBoard, for the first track of a validation or test.

    Args:
        every_n_epochs: How often; the first and the last validation and every test always.
        seconds: Length of the excerpt from the middle of the track.
    """

    def __init__(self, every_n_epochs: int = 5, seconds: float = 10.0) -> None:
        self.every_n_epochs = every_n_epochs
        self.seconds = seconds
        self._last_epoch: int | None = None
        self._optional = OptionalFiles("plots and audio of Samples")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save and log the first track."""
        if (
            not isinstance(batch, TrackBatch)
            or batch_idx > 0
            or trainer.sanity_checking
            or not trainer.is_global_zero
            or not self._due(trainer)
        ):
            return
        with self._optional:
            self._save(trainer, pl_module, outputs["estimates"], batch)

    on_test_batch_end = on_validation_batch_end

    def _save(
        self, trainer: Trainer, pl_module: LightningModule, estimated: Tensor, batch: TrackBatch
    ) -> None:
        assert isinstance(pl_module, SourceSeparator)
        rate, sources = pl_module.sample_rate, pl_module.sources
        wanted = round(self.seconds * rate)
        start = max(0, (batch.mixture.shape[-1] - wanted) // 2)
        mixture, references, estimates = (
            waveform[..., start : start + wanted].detach().float().cpu().numpy()
            for waveform in (batch.mixture, batch.targets, estimated)
        )
        split = "test" if trainer.testing else "val"
        now = state_name(trainer.current_epoch, trainer.global_step)
        when = now if trainer.state.fn == "fit" else split
        excerpt = (mixture, references, estimates, sources, rate)
        figures = {
            kind: draw(*excerpt, title=f"{batch.name} ({when})") for kind, draw in _PLOTS.items()
        }
        for kind, figure in figures.items():
            style.save(figure, run_folder(trainer, "pictures") / f"{when}_{kind}.png")
        clips = {"mixture": mixture}
        for number, source in enumerate(sources):
            clips[f"{source}/reference"] = references[number]
            clips[f"{source}/estimate"] = estimates[number]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for kind, figure in figures.items():
                    logger.log_image(f"{split}/{kind}", [figure])
                for name, clip in clips.items():
                    logger.log_audio(f"{split}/audio/{name}", [_playable(clip)], sample_rate=[rate])
            elif isinstance(logger, TensorBoardLogger):
                step = trainer.global_step
                for kind, figure in figures.items():
                    logger.experiment.add_figure(f"{split}/{kind}", figure, step)
                for name, clip in clips.items():
                    # TensorBoard plays mono only.
                    mono = _playable(clip).mean(1)
                    logger.experiment.add_audio(f"{split}/audio/{name}", mono, step, rate)

    def _due(self, trainer: Trainer) -> bool:
        """Whether to save this validation; epochs without a validation are possible."""
        if trainer.state.fn != "fit":
            return True
        epoch, last = trainer.current_epoch, self._last_epoch
        ends = epoch + 1 == trainer.max_epochs
        due = ends or last is None or epoch - last >= self.every_n_epochs
        if due:
            self._last_epoch = epoch
        return due


def _playable(clip: Audio) -> Audio:
    """Transpose a waveform (C, T) to (T, C) and clip it to [-1, 1]."""
    clipped: Audio = np.clip(clip.T, -1.0, 1.0)
    return clipped
