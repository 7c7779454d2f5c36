"""Audio and plots of one track, every few epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
import soundfile
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from datamodules.batches import TrackBatch
from datamodules.files.audio import Audio
from datamodules.files.writing import replacing
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.optional_files import OptionalFiles
from lightning_modules.callbacks.run_files import run_folder, state_name
from lightning_modules.plots import sound, style

_PLOTS = {
    "spectrograms": sound.spectrogram_figure,
    "differences": sound.difference_figure,
    "masks": sound.mask_figure,
    "waveforms": sound.waveform_figure,
}
_BLOCK_SECONDS = 0.1
# A source sounds where its power is at most 40 dB below that of its loudest block.
_SOUNDS = 1e-4


class Samples(Callback):
    """Save spectrograms, differences, masks, waveforms and audio of references and estimates.

    Plots are saved to ``pictures/`` of the run, and plots and audio logged to Weights & Biases
    or TensorBoard, for the first track of a validation or test. Without these loggers, audio is
    saved to ``clips/<track>/``.

    Args:
        every_n_epochs: How often; the first and the last validation and every test always.
        seconds: Length of the excerpt, which is where most sources sound.
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
        rate, sources = batch.sample_rate, pl_module.sources
        wanted = round(self.seconds * rate)
        start = fullest_excerpt(batch.targets, wanted, round(_BLOCK_SECONDS * rate))
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
        if not any(isinstance(each, WandbLogger | TensorBoardLogger) for each in trainer.loggers):
            folder = run_folder(trainer, "clips", batch.name)
            for name, clip in clips.items():
                # Mixture and references are the same in all validations.
                file = folder / f"{name.replace('estimate', when)}.flac"
                with replacing(file) as unfinished:
                    soundfile.write(unfinished, _playable(clip), rate, format="FLAC")

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


def fullest_excerpt(sources: Tensor, samples: int, block: int) -> int:
    """Find the excerpt of a track in which most sources sound; of equal ones, the most central.

    Args:
        sources: True sources, shape (S, C, T).
        samples: Length of the excerpt.
        block: Length of the blocks whose power decides whether a source sounds, samples.

    Returns:
        Its first sample, a multiple of ``block``; 0 if the track is not longer than the excerpt.
    """
    count, wanted = sources.shape[-1] // block, samples // block
    if not 0 < wanted < count:
        return 0
    sounding = torch.zeros(count, device=sources.device)
    for source in sources:
        power = source[:, : count * block].unflatten(-1, (count, block)).square().mean((0, 2))
        sounding += power > _SOUNDS * power.max()  # of a silent source, nowhere
    totals = sounding.unfold(0, wanted, 1).sum(-1)
    places = torch.arange(len(totals), device=sources.device)
    distances = (places - len(totals) / 2).abs()
    return block * int(torch.where(totals == totals.max(), distances, torch.inf).argmin())


def _playable(clip: Audio) -> Audio:
    """Transpose a waveform (C, T) to (T, C) and clip it to [-1, 1]."""
    clipped: Audio = np.clip(clip.T, -1.0, 1.0)
    return clipped
