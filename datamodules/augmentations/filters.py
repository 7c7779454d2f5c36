"""Augmentations that filter stems: equalisers, shelves, band-stop and reverberation.

Biquads follow Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients" (here:
the cookbook), with its A, alpha and w0.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import scipy.signal
import torch
import torchaudio
from torch import Tensor

from datamodules.augmentations.base import (
    Parameters,
    Probability,
    StemAugmentation,
    checked_range,
    on_device,
)
from datamodules.augmentations.convolution import convolve, recorded_response, stack_responses
from datamodules.augmentations.recordings import Recordings

_Coefficients = tuple[Parameters, ...]

# Highest frequency drawn, relative to the sample rate: filters degenerate at one half.
_HIGHEST_RELATIVE = 0.45
# Order of the low-pass prototype of band-stop filters, which sets the steepness of the slopes.
_BAND_STOP_ORDER = 4
# Quality of the steepest shelf without overshoot.
_SHELF_Q = math.sqrt(0.5)


class _Biquad(StemAugmentation):
    """Base of second-order filters with random gain, frequency and quality.

    The gain is uniform in decibels, frequency and quality are uniform in their logarithms.
    Frequencies above 0.45 of the sample rate are lowered to it.
    """

    def __init__(
        self,
        range_db: tuple[float, float],
        range_hz: tuple[float, float],
        range_q: tuple[float, float],
        probability: Probability,
    ) -> None:
        super().__init__(probability)
        self.range_db = checked_range("db", *range_db)
        self.range_hz = checked_range("hz", *range_hz, above=0)
        self.range_q = checked_range("q", *range_q, above=0)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw gain in dB, frequency in Hz and quality for each stem."""
        gains = random.uniform(*self.range_db, stems)
        frequencies = _log_uniform(random, *self.range_hz, stems)
        frequencies = np.minimum(frequencies, _HIGHEST_RELATIVE * self.sample_rate)
        return np.column_stack([gains, frequencies, _log_uniform(random, *self.range_q, stems)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Filter each stem."""
        gains, frequencies, qualities = parameters.double().numpy().T
        angular = 2 * np.pi * frequencies / self.sample_rate
        coefficients = self.coefficients(
            10 ** (gains / 40), np.cos(angular), np.sin(angular) / (2 * qualities)
        )
        return _filter_in_sections(waveforms, np.stack(coefficients, -1)[:, None])

    @staticmethod
    @abstractmethod
    def coefficients(a: Parameters, cosine: Parameters, alpha: Parameters) -> _Coefficients:
        """The cookbook's b0, b1, b2, a0, a1, a2 from A, cos(w0) and alpha, each of shape (N,)."""


class PeakingEqualizer(_Biquad):
    """Boost or cut a band of random centre and width (the cookbook's peakingEQ).

    Args:
        lowest_db: Smallest gain at the centre, dB.
        highest_db: Largest gain at the centre, dB.
        lowest_hz: Lowest centre, Hz.
        highest_hz: Highest centre, Hz.
        lowest_q: Smallest quality: centre divided by width.
        highest_q: Largest quality.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self,
        lowest_db: float = -9.0,
        highest_db: float = 9.0,
        lowest_hz: float = 100.0,
        highest_hz: float = 10000.0,
        lowest_q: float = 0.5,
        highest_q: float = 4.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(
            (lowest_db, highest_db), (lowest_hz, highest_hz), (lowest_q, highest_q), probability
        )

    @staticmethod
    def coefficients(a: Parameters, cosine: Parameters, alpha: Parameters) -> _Coefficients:
        """The cookbook's peakingEQ."""
        middle = -2 * cosine
        return 1 + alpha * a, middle, 1 - alpha * a, 1 + alpha / a, middle, 1 - alpha / a


class LowShelf(_Biquad):
    """Boost or cut everything below a random frequency (the cookbook's lowShelf).

    Args:
        lowest_db: Smallest gain far below the frequency, dB.
        highest_db: Largest gain, dB.
        lowest_hz: Lowest corner frequency, where half the gain in dB is reached, Hz.
        highest_hz: Highest corner frequency, Hz.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self,
        lowest_db: float = -9.0,
        highest_db: float = 9.0,
        lowest_hz: float = 60.0,
        highest_hz: float = 400.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(
            (lowest_db, highest_db), (lowest_hz, highest_hz), (_SHELF_Q, _SHELF_Q), probability
        )

    @staticmethod
    def coefficients(a: Parameters, cosine: Parameters, alpha: Parameters) -> _Coefficients:
        """The cookbook's lowShelf."""
        root = 2 * np.sqrt(a) * alpha
        return (
            a * ((a + 1) - (a - 1) * cosine + root),
            2 * a * ((a - 1) - (a + 1) * cosine),
            a * ((a + 1) - (a - 1) * cosine - root),
            (a + 1) + (a - 1) * cosine + root,
            -2 * ((a - 1) + (a + 1) * cosine),
            (a + 1) + (a - 1) * cosine - root,
        )


class HighShelf(LowShelf):
    """Boost or cut everything above a random frequency (the cookbook's highShelf).

    Args:
        lowest_db: Smallest gain far above the frequency, dB.
        highest_db: Largest gain, dB.
        lowest_hz: Lowest corner frequency, where half the gain in dB is reached, Hz.
        highest_hz: Highest corner frequency, Hz.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self,
        lowest_db: float = -9.0,
        highest_db: float = 9.0,
        lowest_hz: float = 2000.0,
        highest_hz: float = 10000.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(lowest_db, highest_db, lowest_hz, highest_hz, probability)

    @staticmethod
    def coefficients(a: Parameters, cosine: Parameters, alpha: Parameters) -> _Coefficients:
        """The cookbook's highShelf: its lowShelf mirrored at a quarter of the sample rate."""
        b0, b1, b2, a0, a1, a2 = LowShelf.coefficients(a, -cosine, alpha)
        return b0, -b1, b2, a0, -a1, a2


class BandStop(StemAugmentation):
    """Remove a random band from a stem.

    Butterworth band-stop filter from a fourth-order low-pass. The band's edges (-3 dB) lie half the
    width below and above a centre that is uniform in its logarithm. The centre is lowered where the
    upper edge would exceed 0.45 of the sample rate.

    Args:
        lowest_octaves: Smallest width, octaves.
        highest_octaves: Largest width, octaves.
        lowest_hz: Lowest centre, Hz.
        highest_hz: Highest centre, Hz.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self,
        lowest_octaves: float = 0.25,
        highest_octaves: float = 1.0,
        lowest_hz: float = 100.0,
        highest_hz: float = 10000.0,
        probability: Probability = 0.2,
    ) -> None:
        super().__init__(probability)
        self.range_octaves = checked_range("octaves", lowest_octaves, highest_octaves, above=0)
        self.range_hz = checked_range("hz", lowest_hz, highest_hz, above=0)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw width in octaves and centre in Hz for each stem."""
        widths = random.uniform(*self.range_octaves, stems)
        centres = _log_uniform(random, *self.range_hz, stems)
        highest = _HIGHEST_RELATIVE * self.sample_rate / 2 ** (widths / 2)
        return np.column_stack([widths, np.minimum(centres, highest)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Filter each stem."""
        sections = []
        for width, centre in parameters.tolist():
            edges = [centre * 2 ** (-width / 2), centre * 2 ** (width / 2)]
            sections.append(
                scipy.signal.butter(
                    _BAND_STOP_ORDER, edges, "bandstop", output="sos", fs=self.sample_rate
                )
            )
        return _filter_in_sections(waveforms, np.stack(sections))


class Reverb(StemAugmentation):
    """Add reverberation with an impulse response drawn from a folder.

    The reverberation is added to the dry stem and ends with the crop. Responses are trimmed to
    their direct sound (the first sample within 20 dB of the peak, as in ISO 3382-1), so that
    nothing is delayed, and scaled to unit energy (mean over channels), so that their loudness does
    not matter. A response with another sample rate is resampled; one with a different number of
    channels than the stem is averaged, and the average is applied to all channels.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        lowest_db: Smallest level of the reverberation relative to the dry stem, dB.
        highest_db: Largest level, dB.
        probability: Probability per stem, one number or one per stem.

    Raises:
        DataError: The folder is missing or empty, or a file in it is damaged or silent.
    """

    neutral = -math.inf

    def __init__(
        self,
        folder: str,
        lowest_db: float = -24.0,
        highest_db: float = -6.0,
        probability: Probability = 0.2,
    ) -> None:
        super().__init__(probability)
        self.range_db = checked_range("db", lowest_db, highest_db)
        self.responses = Recordings(folder, "impulse responses")

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a level in dB and the number of a response for each stem."""
        levels = random.uniform(*self.range_db, stems)
        return np.column_stack([levels, random.integers(len(self.responses), size=stems)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Add to each stem its convolution with the response."""
        _, channels, samples = waveforms.shape
        responses = [
            recorded_response(*self.responses.file(number), self.sample_rate, channels)
            for number in parameters[:, 1].long().tolist()
        ]
        wet = convolve(waveforms, stack_responses(responses, samples).to(waveforms))
        factors = on_device(10 ** (parameters[:, 0].double() / 20), waveforms)
        return waveforms + factors * wet


def _log_uniform(
    random: np.random.Generator, lowest: float, highest: float, number: int
) -> Parameters:
    return np.exp(random.uniform(math.log(lowest), math.log(highest), number))


def _filter_in_sections(waveforms: Tensor, sections: Parameters) -> Tensor:
    """Filter waveforms (N, C, T) by cascades of second-order sections (N, sections, 6)."""
    # float64: poles of low frequencies are so close to the unit circle that float32 adds noise.
    signal: Tensor = waveforms.transpose(0, 1).double()  # lfilter's layout: (..., filters, T)
    for number in range(sections.shape[1]):
        section = torch.from_numpy(sections[:, number] / sections[:, number, 3:4])
        b, a = section.to(signal.device).split(3, 1)
        signal = torchaudio.functional.lfilter(signal, a, b, clamp=False, batching=True)
    return signal.transpose(0, 1).to(waveforms)
