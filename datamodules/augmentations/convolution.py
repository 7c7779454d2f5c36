"""Convolution with impulse responses, and impulse responses from files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from torch import Tensor

from datamodules.augmentations.recordings import match_channels, resample
from datamodules.errors import DataError
from datamodules.files.audio import Audio, read

# The direct sound is the first sample of a response within this distance of its peak.
_ONSET_BELOW_PEAK_DB = 20.0


def convolve(waveforms: Tensor, responses: Tensor) -> Tensor:
    """Convolve waveforms (..., T), each with its response (..., L), by FFT; cut to T samples."""
    samples = waveforms.shape[-1]
    responses = responses[..., :samples]  # later samples only affect what is cut off
    length = scipy.fft.next_fast_len(samples + responses.shape[-1] - 1, real=True)
    spectra = torch.fft.rfft(waveforms, length) * torch.fft.rfft(responses, length)
    convolved: Tensor = torch.fft.irfft(spectra, length)[..., :samples]
    return convolved


def stack_responses(responses: Sequence[Tensor], samples: int) -> Tensor:
    """Cut or zero-pad N impulse responses (C, L) to one length: (N, C, samples).

    The length must not depend on the batch, or the rounding of ``convolve`` would too.
    """
    stacked = torch.zeros(len(responses), responses[0].shape[0], samples)
    for target, response in zip(stacked, responses, strict=True):
        cut = response[:, :samples]
        target[:, : cut.shape[-1]] = cut
    return stacked


# Bounds the memory for large folders.
@lru_cache(maxsize=256)
def recorded_response(path: Path, file_rate: int, sample_rate: int, channels: int) -> Tensor:
    """Read an impulse response: trim it to its direct sound, resample it and normalise it.

    Args:
        path: The file.
        file_rate: Its sample rate, Hz.
        sample_rate: Sample rate of the result, Hz.
        channels: Number of channels of the result; where the file has a different number, all of
            them hold its average.

    Returns:
        Response of unit energy, mean over channels, float32, shape (channels, L).

    Raises:
        DataError: It is silent or not finite.
    """
    audio = read(path)
    if not np.isfinite(audio).all():
        raise DataError(
            f"{path}: holds NaN or infinity, an impulse response was expected; remove the file or "
            "export it again"
        )
    if not audio.any():
        raise DataError(f"{path}: is silent, an impulse response was expected; remove the file")
    # Trimmed before resampling, whose filter rings before the onset.
    response = resample(trim_to_onset(audio), file_rate, sample_rate)
    return torch.from_numpy(scale_to_unit_energy(match_channels(response, channels)))


def trim_to_onset(response: Audio) -> Audio:
    """Remove everything before the direct sound: the first sample within 20 dB of the peak.

    ISO 3382-1 determines the arrival of the direct sound in this way.
    """
    levels = np.abs(response).max(0)
    threshold = levels.max() * 10 ** (-_ONSET_BELOW_PEAK_DB / 20)
    return response[:, int(np.argmax(levels >= threshold)) :]


def scale_to_unit_energy(response: npt.NDArray[np.floating]) -> Audio:
    """Scale a response (C, L) to unit energy, mean over channels: white noise keeps its level."""
    energy = np.square(response, dtype=np.float64).sum() / len(response)
    return np.asarray(response / np.sqrt(energy), np.float32)
