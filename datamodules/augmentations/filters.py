"""Augmentations that filter stems: equalisers, shelves, band-stop and reverberation.

Biquads are those of the cookbook: Bristow-Johnson, "Cookbook formulae for audio EQ biquad
filter coefficients", with A, alpha and w0 as there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import scipy.signal
import torch
import torchaudio
from torch import Tensor

from datamodules.augmentations.base import (
    Parameters,
    Probability,
    StemAugmentation,
    check_range,
    decibels_to_factors,
    log_uniform,
    on_device,
)
from datamodules.augmentations.convolution import convolve, recorded_response
from datamodules.augmentations.recordings import Recordings

# Share of the sample rate above which no frequency is drawn: filters degenerate at one half.
_HIGHEST_SHARE = 0.45
# Order of the low-pass filter that a band-stop is made of; the slopes' steepness.
_BAND_STOP_ORDER = 4


class _Biquad(StemAugmentation):
    """A filter of second order with random gain, frequency and quality.

    The gain is uniform in decibels, frequency and quality are uniform in their logarithms.
    Frequencies above 0.45 of the sample rate are lowered to it.

    Args:
        lowest_db: Smallest gain, dB.
        highest_db: Largest gain, dB.
        lowest_hz: Lowest frequency, Hz.
        highest_hz: Highest frequency, Hz.
        lowest_q: Smallest quality.
        highest_q: Largest quality.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0

    def __init__(
        self,
        lowest_db: float,
        highest_db: float,
        lowest_hz: float,
        highest_hz: float,
        lowest_q: float,
        highest_q: float,
        probability: Probability,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        check_range("hz", lowest_hz, highest_hz, above=0)
        check_range("q", lowest_q, highest_q, above=0)
        self.decibels = lowest_db, highest_db
        self.frequencies = lowest_hz, highest_hz
        self.qualities = lowest_q, highest_q

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw gain in dB, frequency in Hz and quality for each stem."""
        gains = random.uniform(*self.decibels, stems)
        frequencies = log_uniform(random, *self.frequencies, stems)
        frequencies = np.minimum(frequencies, _HIGHEST_SHARE * self.sample_rate)
        return np.column_stack([gains, frequencies, log_uniform(random, *self.qualities, stems)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Filter each stem."""
        gains, frequencies, qualities = parameters.double().numpy().T
        angular = 2 * np.pi * frequencies / self.sample_rate
        coefficients = self.coefficients(
            10 ** (gains / 40), np.cos(angular), np.sin(angular) / (2 * qualities)
        )
        return _filtered(waveforms, np.stack(coefficients, -1)[:, None])

    @staticmethod
    @abstractmethod
    def coefficients(
        a: Parameters, cosine: Parameters, alpha: Parameters
    ) -> tuple[Parameters, ...]:
        """The cookbook's b0, b1, b2, a0, a1, a2, each of shape (N,).

        Args:
            a: Square root of the amplitude gain, shape (N,).
            cosine: cos(w0), shape (N,).
            alpha: sin(w0) / (2 Q), shape (N,).
        """


class PeakingEqualizer(_Biquad):
    """Raise or lower a band of random centre and width (the cookbook's peakingEQ).

    Args:
        lowest_db: Smallest gain at the centre, dB.
        highest_db: Largest gain at the centre, dB.
        lowest_hz: Lowest centre, Hz.
        highest_hz: Highest centre, Hz.
        lowest_q: Smallest quality: centre divided by width.
        highest_q: Largest quality.
        probability: Probability per stem, one number or one a stem.
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
            lowest_db, highest_db, lowest_hz, highest_hz, lowest_q, highest_q, probability
        )

    @staticmethod
    def coefficients(
        a: Parameters, cosine: Parameters, alpha: Parameters
    ) -> tuple[Parameters, ...]:
        """The cookbook's peakingEQ."""
        middle = -2 * cosine
        return 1 + alpha * a, middle, 1 - alpha * a, 1 + alpha / a, middle, 1 - alpha / a


class LowShelf(_Biquad):
    """Raise or lower what lies below a random frequency (the cookbook's lowShelf).

    Args:
        lowest_db: Smallest gain far below the frequency, dB.
        highest_db: Largest gain, dB.
        lowest_hz: Lowest frequency of half the gain, Hz.
        highest_hz: Highest frequency, Hz.
        probability: Probability per stem, one number or one a stem.
    """

    # The steepest slope without a bump.
    _QUALITY: ClassVar[float] = math.sqrt(0.5)

    def __init__(
        self,
        lowest_db: float = -9.0,
        highest_db: float = 9.0,
        lowest_hz: float = 60.0,
        highest_hz: float = 400.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(
            lowest_db,
            highest_db,
            lowest_hz,
            highest_hz,
            self._QUALITY,
            self._QUALITY,
            probability,
        )

    @staticmethod
    def coefficients(
        a: Parameters, cosine: Parameters, alpha: Parameters
    ) -> tuple[Parameters, ...]:
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
    """Raise or lower what lies above a random frequency (the cookbook's highShelf).

    Args:
        lowest_db: Smallest gain far above the frequency, dB.
        highest_db: Largest gain, dB.
        lowest_hz: Lowest frequency of half the gain, Hz.
        highest_hz: Highest frequency, Hz.
        probability: Probability per stem, one number or one a stem.
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
    def coefficients(
        a: Parameters, cosine: Parameters, alpha: Parameters
    ) -> tuple[Parameters, ...]:
        """The cookbook's highShelf: the low one, mirrored at a quarter of the sample rate."""
        b0, b1, b2, a0, a1, a2 = LowShelf.coefficients(a, -cosine, alpha)
        return b0, -b1, b2, a0, -a1, a2


class BandStop(StemAugmentation):
    """Take a random band out of a stem.

    Its edges, where 3 dB are lost, lie half the width below and above a centre that is
    uniform in its logarithm; slopes as of a Butterworth low-pass of fourth order. An edge
    above 0.45 of the sample rate is avoided by a lower centre.

    Args:
        lowest_octaves: Smallest width, octaves.
        highest_octaves: Largest width, octaves.
        lowest_hz: Lowest centre, Hz.
        highest_hz: Highest centre, Hz.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0

    def __init__(
        self,
        lowest_octaves: float = 0.25,
        highest_octaves: float = 1.0,
        lowest_hz: float = 100.0,
        highest_hz: float = 10000.0,
        probability: Probability = 0.2,
    ) -> None:
        super().__init__(probability)
        check_range("octaves", lowest_octaves, highest_octaves, above=0)
        check_range("hz", lowest_hz, highest_hz, above=0)
        self.octaves = lowest_octaves, highest_octaves
        self.frequencies = lowest_hz, highest_hz

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw width in octaves and centre in Hz for each stem."""
        widths = random.uniform(*self.octaves, stems)
        centres = log_uniform(random, *self.frequencies, stems)
        highest = _HIGHEST_SHARE * self.sample_rate / 2 ** (widths / 2)
        return np.column_stack([widths, np.minimum(centres, highest)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Filter each stem."""
        sections = [
            scipy.signal.butter(
                _BAND_STOP_ORDER,
                [centre * 2 ** (-width / 2), centre * 2 ** (width / 2)],
                "bandstop",
                output="sos",
                fs=self.sample_rate,
            )
            for width, centre in parameters.tolist()
        ]
        return _filtered(waveforms, np.stack(sections))


class Reverb(StemAugmentation):
    """Add reverberation with an impulse response drawn from a folder.

    The response is cut to begin with its direct sound (where it first comes within 20 dB
    of its peak, in the manner of ISO 3382-1), so that nothing is delayed, and scaled to unit
    energy, mean over channels, so that responses of unlike loudness act alike; one of
    another sample rate is resampled, one with other channels than the stem acts on
    all of them as its average. Added to the dry stem, at the wet ratio; the
    tail ends with the crop.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        lowest_db: Smallest level of the reverberation relative to the dry stem, dB.
        highest_db: Largest level, dB.
        probability: Probability per stem, one number or one a stem.

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
        check_range("db", lowest_db, highest_db)
        self.responses = Recordings(folder, "impulse responses")
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the wet ratio in dB and a response for each stem."""
        levels = random.uniform(self.lowest_db, self.highest_db, stems)
        return np.column_stack([levels, random.integers(len(self.responses), size=stems)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Convolve each stem with its response, and add."""
        _, channels, samples = waveforms.shape
        # One length for all responses, so that rounding does not depend on the batch.
        responses = torch.zeros(len(waveforms), channels, samples)
        for place, number in enumerate(parameters[:, 1].long().tolist()):
            path, rate = self.responses.files[number], self.responses.infos[number].sample_rate
            heard = recorded_response(path, rate, self.sample_rate, channels)[:, :samples]
            responses[place, :, : heard.shape[-1]] = heard
        wet = convolve(waveforms, responses.to(waveforms))
        factors = torch.from_numpy(decibels_to_factors(parameters[:, 0].double().numpy()))
        return waveforms + on_device(factors, waveforms) * wet


def _filtered(waveforms: Tensor, sections: Parameters) -> Tensor:
    """Filter waveforms by second-order sections, one after the other.

    Args:
        waveforms: Shape (N, C, T).
        sections: b0, b1, b2, a0, a1, a2 of each section, shape (N, sections, 6).

    Returns:
        Shape (N, C, T).
    """
    # float64: poles of low frequencies lie so near the unit circle that float32 hisses.
    signal: Tensor = waveforms.transpose(0, 1).double()  # lfilter wants (..., filters, T)
    for number in range(sections.shape[1]):
        section = torch.from_numpy(sections[:, number] / sections[:, number, 3:4])
        b, a = section.to(signal.device).split(3, 1)
        signal = torchaudio.functional.lfilter(signal, a, b, clamp=False, batching=True)
    return signal.transpose(0, 1).to(waveforms)
