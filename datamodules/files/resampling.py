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
    """Resample a stream of blocks with soxr at its highest quality.

    The pass band is flat to 0.01 dB up to 0.9 of the lower Nyquist frequency, aliases and images
    stay below -110 dB; there is no delay.

    Args:
        blocks: Consecutive parts of a waveform, each of shape (C, T) with any T.
        channels: Number of channels.
        rate: Their sample rate, Hz.
        new_rate: The new sample rate, Hz.

    Yields:
        Parts of the resampled waveform, shape (C, t), in all ``resampled_length`` samples.
    """
    stream = soxr.ResampleStream(rate, new_rate, channels, quality="VHQ")
    given = made = 0
    for block in blocks:
        given += block.shape[-1]
        part = stream.resample_chunk(np.ascontiguousarray(block.T))
        made += len(part)
        yield part.T
    # soxr rounds the length; silence behind the end makes enough samples to round up.
    silence = np.zeros((2 + rate // new_rate, channels), np.float32)
    rest = stream.resample_chunk(silence, last=True)
    yield rest[: resampled_length(given, rate, new_rate) - made].T


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
