"""Resampling in bounded memory, between any two rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from datamodules.files import audio
from datamodules.files.audio import Audio

_BLOCK_SAMPLES = 2**16


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Length of resampled audio: ceil(samples × new_rate / rate)."""
    return -(-samples * new_rate // rate)


def resample_blocks(
    blocks: Iterable[Audio], channels: int, rate: int, new_rate: int
) -> Iterator[Audio]:
    """Resample consecutive blocks with soxr at its highest quality.

    The pass band is flat to 0.01 dB up to 0.9 of the lower Nyquist frequency. Aliases and images
    are below -110 dB. There is no delay.

    Args:
        blocks: Consecutive parts of a waveform, each of shape (C, T) with any T.
        channels: Number of channels.
        rate: Sample rate of the blocks, Hz.
        new_rate: The new sample rate, Hz.

    Yields:
        Consecutive parts of the resampled waveform, shape (C, any), with ``resampled_length``
        samples in total.
    """
    stream = soxr.ResampleStream(rate, new_rate, channels, quality="VHQ")
    samples_in = samples_out = 0
    for block in blocks:
        samples_in += block.shape[-1]
        part = stream.resample_chunk(np.ascontiguousarray(block.T))
        samples_out += len(part)
        yield part.T
    # soxr rounds the length to nearest. Silence after the end yields enough samples to round up.
    silence = np.zeros((2 + rate // new_rate, channels), np.float32)
    rest = stream.resample_chunk(silence, last=True)
    yield rest[: resampled_length(samples_in, rate, new_rate) - samples_out].T


def resample_file(path: Path, target: Path, sample_rate: int) -> None:
    """Write a file at another rate (Hz) as float32 WAV, in bounded memory."""
    info = audio.inspect_seekable(path)
    blocks = (
        audio.read(path, start, min(_BLOCK_SAMPLES, info.samples - start))
        for start in range(0, info.samples, _BLOCK_SAMPLES)
    )
    with soundfile.SoundFile(
        target, "w", sample_rate, info.channels, "FLOAT", format="WAV"
    ) as file:
        for part in resample_blocks(blocks, info.channels, info.sample_rate, sample_rate):
            file.write(part.T)
