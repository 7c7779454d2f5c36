"""Approximation of the sensitivity of hearing."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from datamodules.augmentations.filters import HighShelf, PeakingEqualizer


@lru_cache(maxsize=8)
def hearing(size: int, sample_rate: int) -> Tensor:
    """Frequency weighting of ``losses.LogWMSE``, an approximation of hearing sensitivity.

    After Fenton and Lee 2017, "Alternative weighting filters for multi-track program loudness
    measurement", as in Jordal's package: at 44.1 kHz a high shelf of 5 dB at 1500 Hz, a peak of
    2.5 dB at 500 Hz (both from the biquad cookbook), a second-order Butterworth high-pass at
    120 Hz, and twice a first-order low-pass at 10 kHz. Frequencies above 22,050 Hz have the weight
    of that frequency, zero.

    Args:
        size: FFT length, samples.
        sample_rate: Hz.

    Returns:
        Amplitude factors per bin, float32, shape (size // 2 + 1,).
    """
    rate = 44100
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate).clip(max=rate / 2)
    filters = []
    for kind, gain_db, centre_hz, quality in (
        (HighShelf, 5.0, 1500.0, math.sqrt(0.5)),
        (PeakingEqualizer, 2.5, 500.0, 1.5 * math.sqrt(0.5)),
    ):
        angular = np.array(2 * math.pi * centre_hz / rate)
        biquad = kind.coefficients(
            np.array(10 ** (gain_db / 40)), np.cos(angular), np.sin(angular) / (2 * quality)
        )
        filters.append((biquad[:3], biquad[3:]))
    filters.append(scipy.signal.butter(2, 120, "highpass", fs=rate))
    filters += 2 * [scipy.signal.butter(1, 10000, fs=rate)]
    gains = [np.abs(scipy.signal.freqz(*each, frequencies, fs=rate)[1]) for each in filters]
    return torch.from_numpy(np.prod(gains, axis=0).astype(np.float32))
