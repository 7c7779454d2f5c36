"""Augmentations of pitch and tempo.

The crop keeps its length: a faster one ends in silence, a slower one loses its end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from datamodules.augmentations.base import Parameters, Probability, StemAugmentation, require

# Frequency ratios are rounded to fractions with at most this denominator, which keeps the
# resampling filters small: whole semitones up to two are off by a tenth of a cent.
_LARGEST_DENOMINATOR = 100
# Half a frame, the hop, is a period of the lowest notes of a bass.
_FRAME_SECONDS = 0.046


class _Repitch(StemAugmentation):
    """Base of changes of pitch and tempo by a ratio for each stem."""

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Stretch in time where the ratios of pitch and tempo differ, then resample."""
        samples = waveforms.shape[-1]
        pitches, tempos = self.ratios(parameters.double())
        rates = [float(tempo / pitch) for pitch, tempo in zip(pitches, tempos, strict=True)]
        stretched = _stretch(waveforms, torch.tensor(rates, dtype=torch.float64), self.sample_rate)
        result = torch.zeros_like(waveforms)
        ratios = list(zip(pitches, rates, strict=True))
        for pitch, rate in set(ratios):
            same = [number for number, other in enumerate(ratios) if other == (pitch, rate)]
            # Cut to the stretched length of these stems; others in the batch may be longer.
            resampled = torchaudio.functional.resample(
                stretched[same, :, : round(samples / rate)], pitch.numerator, pitch.denominator
            )[..., :samples]
            result[same, :, : resampled.shape[-1]] = resampled
        return result

    @abstractmethod
    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Sequence[Fraction | float]]:
        """Convert drawn parameters, shape (N, k), to N ratios of pitch and N of tempo."""


class Repitch(_Repitch):
    """Change pitch and tempo independently, as Demucs does.

    The pitch changes by whole semitones, uniform; the tempo by a normally distributed percentage,
    clipped to its largest change. All stems of an example change equally, which keeps them in tune
    and in time (Demucs' ``RepitchedWrapper``, with its defaults). Demucs runs soundstretch; this
    class stretches by the same family of methods, WSOLA (Verhelst and Roelands 1993, "An
    overlap-add technique based on waveform similarity (WSOLA) for high quality time-scale
    modification of speech"), and resamples. Stems are stretched separately, so none influences
    another; the channels of a stem together. torchaudio's phase vocoder would smear attacks by
    tens of milliseconds.

    Args:
        semitones: Largest change of pitch in either direction, whole semitones.
        tempo_percent: Largest change of tempo in either direction, %.
        tempo_deviation_percent: Standard deviation of the tempo, %.
        probability: Probability per example, or one number per stem; with ``together`` a single
            random number is compared with all of them.
        together: Change all stems of an example equally; otherwise each on its own, which suits
            stems from different tracks.
    """

    def __init__(
        self,
        semitones: int = 2,
        tempo_percent: float = 12.0,
        tempo_deviation_percent: float = 5.0,
        probability: Probability = 0.2,
        together: bool = True,
    ) -> None:
        super().__init__(probability, together)
        require(0 <= semitones <= 12, "semitones", semitones, "a number from 0 to 12")
        largest, deviation = tempo_percent, tempo_deviation_percent
        require(0 <= largest < 100, "tempo_percent", largest, "a number from 0 to below 100")
        require(0 <= deviation < math.inf, "tempo_deviation_percent", deviation, "0 or more")
        self.semitones, self.tempo_percent = semitones, largest
        self.tempo_deviation_percent = deviation

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw 1 (applied), semitones and the change of tempo in % for each stem."""
        semitones = random.integers(-self.semitones, self.semitones, stems, endpoint=True)
        tempo = random.normal(0, self.tempo_deviation_percent, stems)
        tempo = np.clip(tempo, -self.tempo_percent, self.tempo_percent)
        return np.column_stack([np.ones(stems), semitones, tempo])

    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Sequence[Fraction | float]]:
        """Convert semitones and percentages."""
        return frequency_ratios(parameters[:, 1]), (1 + parameters[:, 2] / 100).tolist()


class Speed(_Repitch):
    """Change the playback speed of a stem, which changes pitch and tempo together, as on tape.

    Much cheaper than ``Repitch`` and without its artefacts; two semitones are 12% of tempo.
    torchaudio's polyphase filter resamples by the nearest fraction with a denominator up to 100,
    which is at most nine cents from the drawn ratio.

    Args:
        semitones: Largest change in either direction, semitones; uniform, not only whole ones.
        probability: Probability per example, or one number per stem; with ``together`` a single
            random number is compared with all of them.
        together: Change all stems of an example equally; otherwise each on its own, which suits
            stems from different tracks.
    """

    def __init__(
        self, semitones: float = 2.0, probability: Probability = 0.2, together: bool = True
    ) -> None:
        super().__init__(probability, together)
        require(0 <= semitones <= 12, "semitones", semitones, "a number from 0 to 12")
        self.semitones = semitones

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw semitones for each stem."""
        return random.uniform(-self.semitones, self.semitones, stems)

    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Sequence[Fraction | float]]:
        """Convert semitones; pitch and tempo have the same ratio."""
        pitches = frequency_ratios(parameters[:, 0])
        return pitches, pitches


def frequency_ratios(semitones: Tensor) -> list[Fraction]:
    """Frequency ratios of intervals in semitones."""
    return [
        Fraction(2 ** (interval / 12)).limit_denominator(_LARGEST_DENOMINATOR)
        for interval in semitones.tolist()
    ]


def _stretch(waveforms: Tensor, rates: Tensor, sample_rate: int) -> Tensor:
    """Change the tempo without the pitch, by WSOLA.

    Output frames are one hop apart. Each is read near the position that the tempo gives, shifted to
    where the waveform correlates best with the continuation of the previous frame.

    Args:
        waveforms: Shape (N, C, T).
        rates: Ratio of tempo of each, float64, shape (N,).
        sample_rate: Sample rate, Hz.

    Returns:
        Shape (N, C, longest); only the first T / rate samples of each are valid.
    """
    samples, device = waveforms.shape[-1], waveforms.device
    if (rates == 1).all():
        return waveforms
    hop = 2 ** round(math.log2(_FRAME_SECONDS / 2 * sample_rate))
    frame, tolerance = 2 * hop, hop // 2
    longest = round(samples / float(rates.min()))
    steps = -(-longest // hop) + 1
    # First sample of each step's frame in the padded input, whose end is silent.
    places = (torch.arange(steps)[:, None] * hop * rates).round().long()
    places = (places.clamp(max=samples + hop) + tolerance).to(device)  # (steps, N)
    padding = (hop + tolerance, frame + 2 * hop + 2 * tolerance)
    padded = nn.functional.pad(waveforms, padding)
    exact = padded.double()  # float32 rounding differs between devices and would break ties
    frames, regions = exact.unfold(-1, frame, 1), exact.unfold(-1, frame + 2 * tolerance, 1)
    shifts = torch.arange(-tolerance, tolerance + 1, device=device)
    rows = torch.arange(len(waveforms), device=device)
    window = torch.hann_window(frame, device=device, dtype=waveforms.dtype)
    result = waveforms.new_zeros(*waveforms.shape[:2], (steps + 1) * hop)
    start = places[0]
    for step in range(steps):
        if step:
            wanted = frames[rows, :, start + hop]
            region = regions[rows, :, places[step] - tolerance]
            start = places[step] + shifts[_similarity(wanted, region).argmax(-1)]
        chosen = padded.unfold(-1, frame, 1)[rows, :, start]
        result[..., step * hop : step * hop + frame] += window * chosen
    # The first frame is centred on the first sample.
    return result[..., hop : hop + longest]


def _similarity(wanted: Tensor, region: Tensor) -> Tensor:
    """Normalised correlation of frames (N, C, frame) with each position in their regions (N, C, T).

    Returns values in [-1, 1], shape (N, T - frame + 1); the centre wins ties.
    """
    frame, length = wanted.shape[-1], region.shape[-1]
    products = torch.fft.rfft(region) * torch.fft.rfft(wanted, length).conj()
    places = length - frame + 1
    correlation = torch.fft.irfft(products.sum(1), length)[:, :places]
    sums = nn.functional.pad(region.square().sum(1).cumsum(-1), (1, 0))
    energies = (sums[:, frame:] - sums[:, :places]) * wanted.square().sum((1, 2))[:, None]
    similarity: Tensor = correlation / energies.clamp(min=1e-20).sqrt()
    distance = torch.linspace(-1, 1, places, device=region.device, dtype=region.dtype).abs()
    return similarity - 1e-6 * distance
