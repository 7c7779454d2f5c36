"""Augmentations of pitch and tempo.

The crop keeps its length: what follows the end of a faster one is silence, and a slower one
loses its end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from fractions import Fraction

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

from datamodules.augmentations.base import Parameters, Probability, StemAugmentation

# Frequency ratios are taken as fractions of at most this denominator, which keeps the
# resampling filters small: whole semitones up to two are off by a tenth of a cent.
_LARGEST_DENOMINATOR = 100
# Two frames overlap everywhere; half a frame is a period of the lowest notes of a bass.
_FRAME_SECONDS = 0.046


class _Repitch(StemAugmentation):
    """What is common to changes of pitch and tempo: a ratio of either for each stem."""

    neutral = 0.0

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Stretch where pitch and tempo part, and resample."""
        samples = waveforms.shape[-1]
        pitches, tempos = self.ratios(parameters.double())
        rates = tempos / _as_tensor(pitches)
        stretched = _stretched(waveforms, rates, self.sample_rate)
        result = torch.zeros_like(waveforms)
        ratios = list(zip(pitches, rates.tolist(), strict=True))
        for pitch, rate in set(ratios):
            alike = [number for number, other in enumerate(ratios) if other == (pitch, rate)]
            # Cut where the stems end: more, if others of the batch are longer, is not theirs.
            faster = torchaudio.functional.resample(
                stretched[alike, :, : round(samples / rate)], pitch.numerator, pitch.denominator
            )[..., :samples]
            result[alike, :, : faster.shape[-1]] = faster
        return result

    @abstractmethod
    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Tensor]:
        """What each stem's pitch and tempo are multiplied by.

        Args:
            parameters: As drawn, shape (N, k).

        Returns:
            Pitches and tempos, N of each.
        """


class Repitch(_Repitch):
    """Change pitch and tempo independently of each other, as Demucs does.

    Whole semitones, uniform, and a normally distributed tempo, cut at its largest
    departure; all stems of an example alike, so that they stay in tune and in time (Demucs'
    ``RepitchedWrapper``, with its defaults). Where Demucs calls soundstretch, this stretches
    by WSOLA, the method of its family (Verhelst and Roelands 1993, "An overlap-add technique
    based on waveform similarity (WSOLA) for high quality time-scale modification of
    speech"), and resamples. Each stem is stretched on its own, so that nothing of one
    decides on another, and all of its channels alike. Not torchaudio's phase vocoder, which
    smears attacks by tens of milliseconds.

    Args:
        semitones: Largest change of pitch in either direction, whole semitones.
        tempo_percent: Largest change of tempo in either direction, %.
        tempo_deviation_percent: Standard deviation of the tempo, %.
        probability: Probability of an example, or one a stem; if some stems of an example
            change and others do not, those with the larger probabilities change.
        together: All stems of an example change alike; else each on its own, which suits
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
        _check_semitones(semitones)
        if not 0 <= tempo_percent < 100:
            raise ValueError(f"tempo_percent is {tempo_percent}: give a number from 0 to below 100")
        if not 0 <= tempo_deviation_percent < math.inf:
            raise ValueError(
                f"tempo_deviation_percent is {tempo_deviation_percent}: give 0 or more"
            )
        self.semitones, self.tempo_percent = semitones, tempo_percent
        self.tempo_deviation_percent = tempo_deviation_percent

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a one (it happens), semitones and per cent of tempo for each stem."""
        semitones = random.integers(-self.semitones, self.semitones, stems, endpoint=True)
        tempo = random.normal(0, self.tempo_deviation_percent, stems)
        tempo = np.clip(tempo, -self.tempo_percent, self.tempo_percent)
        return np.column_stack([np.ones(stems), semitones, tempo])

    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Tensor]:
        """Pitches of the semitones, and tempos of the per cents."""
        return _pitches(parameters[:, 1]), 1 + parameters[:, 2] / 100


class Speed(_Repitch):
    """Play a stem faster or slower, so that pitch and tempo change together, as of a tape.

    Much cheaper than ``Repitch`` and without its artefacts; two semitones are 12% of tempo.
    The resampling is torchaudio's polyphase one, by the nearest fraction of a denominator up
    to 100, which is at most nine cents from what was drawn.

    Args:
        semitones: Largest change in either direction, semitones; uniform, not only whole.
        probability: Probability of an example, or one a stem; if some stems of an example
            change and others do not, those with the larger probabilities change.
        together: All stems of an example change alike; else each on its own, which suits
            stems from different tracks.
    """

    def __init__(
        self,
        semitones: float = 2.0,
        probability: Probability = 0.2,
        together: bool = True,
    ) -> None:
        super().__init__(probability, together)
        _check_semitones(semitones)
        self.semitones = semitones

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw semitones for each stem."""
        return random.uniform(-self.semitones, self.semitones, stems)

    def ratios(self, parameters: Tensor) -> tuple[list[Fraction], Tensor]:
        """Pitches of the semitones, and the same as tempos."""
        pitches = _pitches(parameters[:, 0])
        return pitches, _as_tensor(pitches)


def _check_semitones(semitones: float) -> None:
    if not 0 <= semitones <= 12:
        raise ValueError(f"semitones is {semitones}: give a number from 0 to 12")


def _pitches(semitones: Tensor) -> list[Fraction]:
    """Frequency ratios of intervals."""
    return [
        Fraction(2 ** (interval / 12)).limit_denominator(_LARGEST_DENOMINATOR)
        for interval in semitones.tolist()
    ]


def _as_tensor(ratios: list[Fraction]) -> Tensor:
    return torch.tensor([float(ratio) for ratio in ratios], dtype=torch.float64)


def _stretched(waveforms: Tensor, rates: Tensor, sample_rate: int) -> Tensor:
    """Change tempos and leave pitches, by WSOLA.

    Frames are laid a hop apart. Each is taken from near the place where the tempo puts it:
    from where it is most like what follows the frame before, which thus goes on smoothly.

    Args:
        waveforms: Shape (N, C, T).
        rates: How many times faster each becomes, float64, shape (N,).
        sample_rate: Sample rate, Hz.

    Returns:
        Shape (N, C, longest); each is valid for the T / rate samples that are its own.
    """
    samples, device = waveforms.shape[-1], waveforms.device
    if (rates == 1).all():
        return waveforms
    hop = 2 ** round(math.log2(_FRAME_SECONDS / 2 * sample_rate))
    frame, tolerance = 2 * hop, hop // 2
    longest = round(samples / float(rates.min()))
    steps = -(-longest // hop) + 1
    # Where the frames of each step begin in the padded input; past its end, all is silence.
    places = (torch.arange(steps)[:, None] * hop * rates).round().long()
    places = (places.clamp(max=samples + hop) + tolerance).to(device)  # (steps, N)
    padding = (hop + tolerance, frame + 2 * hop + 2 * tolerance)
    padded = nn.functional.pad(waveforms, padding)
    exact = padded.double()  # else rounding, which no two devices share, chooses among equals
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
            start = places[step] + shifts[_likeness(wanted, region).argmax(-1)]
        chosen = padded.unfold(-1, frame, 1)[rows, :, start]
        result[..., step * hop : step * hop + frame] += window * chosen
    # The first frame is centred at the first sample.
    return result[..., hop : hop + longest]


def _likeness(wanted: Tensor, region: Tensor) -> Tensor:
    """Normalised correlation of a frame with each place of a region.

    Args:
        wanted: Frames, shape (N, C, frame).
        region: Shape (N, C, frame + 2 tolerance).

    Returns:
        In [-1, 1], shape (N, 2 tolerance + 1); among equals the middle is a little higher.
    """
    frame, length = wanted.shape[-1], region.shape[-1]
    products = torch.fft.rfft(region) * torch.fft.rfft(wanted, length).conj()
    places = length - frame + 1
    correlation = torch.fft.irfft(products.sum(1), length)[:, :places]
    sums = nn.functional.pad(region.square().sum(1).cumsum(-1), (1, 0))
    energies = (sums[:, frame:] - sums[:, :places]) * wanted.square().sum((1, 2))[:, None]
    likeness: Tensor = correlation / energies.clamp(min=1e-20).sqrt()
    distance = torch.linspace(-1, 1, places, device=region.device, dtype=region.dtype).abs()
    return likeness - 1e-6 * distance
