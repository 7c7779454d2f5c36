"""Standardisation of a network's input, with measured statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from datamodules.command_line import program
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from datamodules.parallel import for_each
from datamodules.tracks.index import Track
from lightning_modules.base.spectrogram import SpectrogramSeparator

# Number of frames that are read at once.
_FRAMES_AT_ONCE = 512


def input_statistics(
    model: SpectrogramSeparator, data: MUSDBDataModule, to_input: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Measure mean and standard deviation per bin of the training mixtures' magnitudes.

    As in the training script of the package ``openunmix``, the statistics cover all frames of
    the unaugmented mixtures. Standard deviations are at least 1e-4 of the largest one, so that
    bins that are always silent are not amplified. Tracks are divided among ranks; all ranks
    return the same values.

    Args:
        model: Model whose STFT settings are used.
        data: Data module whose training tracks are measured.
        to_input: Function that maps complex spectra (C, F, N) to the network's input, magnitudes
            (F', N). F' is the number of bins of the input.

    Returns:
        Mean and standard deviation per bin, float32, each of shape (F',).

    Raises:
        DataError: A track contains non-finite samples, or all tracks are silent.
    """
    rank, ranks = model.trainer.global_rank, model.trainer.world_size
    measure = partial(_sums, model, data, to_input)
    mine = data.train_tracks[rank::ranks]
    sums = for_each(measure, mine, "measuring input statistics", rank == 0)
    total = torch.stack([_zero_sums(model, to_input), *sums]).sum(0)
    if ranks > 1:
        # Summed in rank order, not all-reduced, so that all ranks get bit-identical values.
        gathered = model.all_gather(total.to(model.device))
        assert isinstance(gathered, Tensor)
        total = gathered.sum(0).cpu()
    mean = total[0] / total[2]
    deviation = (total[1] / total[2] - mean**2).clamp_min(0).sqrt()
    largest = deviation.max()
    if largest == 0:
        raise DataError(
            f"the mixtures of all training tracks ({len(data.train_tracks)}) are silent, so the "
            "input statistics cannot be measured; check --data.init_args.root"
        )
    return mean.float(), deviation.clamp_min(1e-4 * largest).float()


class StandardisedInput(SpectrogramSeparator):
    """A separator that standardises its networks' input to mean 0 and standard deviation 1.

    The statistics of the training tracks are measured once, before training.

    Attributes:
        statistics_known: Whether the statistics have been measured. A buffer, which checkpoints
            contain.
    """

    statistics_known: Tensor

    def on_fit_start(self) -> None:
        """Measure the input statistics before the first step, unless a checkpoint had them."""
        if not self.statistics_known:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            mean, deviation = input_statistics(self, data, self.normalised_magnitudes)
            self.standardise(mean.to(self.device), deviation.to(self.device))

    def normalised_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Map spectra (C, F, N) to input magnitudes (F, N), averaged over channels."""
        return self.to_scale(spectrum.abs()).mean(0)

    @abstractmethod
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise the input with the given mean and standard deviation, each of shape (F,)."""


def _zero_sums(model: SpectrogramSeparator, to_input: Callable[[Tensor], Tensor]) -> Tensor:
    silence = torch.zeros(model.audio_channels, model.n_fft // 2 + 1, 1, dtype=torch.complex64)
    return torch.zeros(3, len(to_input(silence)), dtype=torch.float64)


def _sums(
    model: SpectrogramSeparator,
    data: MUSDBDataModule,
    to_input: Callable[[Tensor], Tensor],
    track: Track,
) -> Tensor:
    """Sum a track's magnitudes and their squares, and count the frames; shape (3, F')."""
    n_fft, hop, window = model.n_fft, model.hop_length, model.transform.window.cpu()
    sums = _zero_sums(model, to_input)
    frames = 1 + max(0, track.samples - n_fft) // hop
    for first in range(0, frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, frames - first)
        samples = n_fft + (count - 1) * hop
        audio = data.grouping.channels(track.read_mixture(first * hop, samples))
        # Pads only tracks shorter than one frame.
        padded = nn.functional.pad(torch.from_numpy(audio), (0, samples - audio.shape[-1]))
        spectrum = torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)
        magnitudes = to_input(spectrum).double()
        sums[0] += magnitudes.sum(1)
        sums[1] += magnitudes.square().sum(1)
        sums[2] += count
    if not sums.isfinite().all():
        raise DataError(
            f"{track.mixture or track.name}: the mixture contains samples that are NaN, infinite "
            "or far out of range (expected: about -1 to 1); repair the file or remove the track "
            f"(`{program('datamodules.doctor')} ROOT` finds the cause)"
        )
    return sums
