"""Convolution with impulse responses, and the responses that files hold."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from torch import Tensor

from datamodules.augmentations.recordings import resampled, with_channels
from datamodules.errors import DataError
from datamodules.files.audio import Audio, read

# An impulse response begins where it first comes this close to its peak.
_ONSET_BELOW_PEAK_DB = 20.0


def convolve(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve by the fast Fourier transform; what comes after the end is cut off.

    Args:
        waveforms: Shape (..., T).
        responses: One for each waveform, shape (..., L).

    Returns:
        Waveforms that begin where they began, shape (..., T).
    """
    samples = waveforms.shape[-1]
    responses = responses[..., :samples]  # what lies behind is not heard any more
    length = scipy.fft.next_fast_len(samples + responses.shape[-1] - 1, real=True)
    spectra = torch.fft.rfft(waveforms, length) * torch.fft.rfft(responses, length)
    convolved: Tensor = torch.fft.irfft(spectra, length)[..., :samples]
    return convolved


# The bound is for folders of many; most hold fewer.
@lru_cache(maxsize=256)
def recorded_response(path: Path, file_rate: int, sample_rate: int, channels: int) -> Tensor:
    """Read an impulse response.

    It is cut to begin with its direct sound, so that nothing is delayed, resampled if it has
    another rate, and scaled; one with other channels than wanted acts on all of them as its
    average.

    Args:
        path: The file.
        file_rate: Its sample rate, Hz.
        sample_rate: Wanted sample rate, Hz.
        channels: Wanted number of channels.

    Returns:
        Response of unit energy, mean over channels, float32, shape (channels, L).

    Raises:
        DataError: It is silent, not finite or cannot be resampled.
    """
    audio = read(path)
    if not np.isfinite(audio).all():
        raise DataError(
            f"{path}: holds NaN or infinity, an impulse response was expected; take it away, or "
            "export it again"
        )
    if not audio.any():
        raise DataError(f"{path}: is silent, an impulse response was expected; take it away")
    # Cut before resampling: the filter's ripple would pass for an early onset.
    response = resampled(from_onset(audio), file_rate, sample_rate, path)
    return torch.from_numpy(of_unit_energy(with_channels(response, channels)))


def from_onset(response: Audio) -> Audio:
    """Cut a response to where it first comes within 20 dB of its peak.

    So ISO 3382-1 finds the arrival of the direct sound.

    Args:
        response: Shape (C, T), not silent.

    Returns:
        Shape (C, L).
    """
    levels = np.abs(response).max(0)
    threshold = levels.max() * 10 ** (-_ONSET_BELOW_PEAK_DB / 20)
    return response[:, int(np.argmax(levels >= threshold)) :]


def of_unit_energy(response: npt.NDArray[np.floating]) -> Audio:
    """Scale a response to unit energy, mean over channels.

    White noise then leaves it as loud as it came, so that responses of unlike loudness act alike.

    Args:
        response: Shape (C, L), not silent.

    Returns:
        float32, same shape.
    """
    energy = np.square(response, dtype=np.float64).sum() / len(response)
    return np.asarray(response / np.sqrt(energy), np.float32)
