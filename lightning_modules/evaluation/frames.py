"""Short-time Fourier transforms of whole songs, block by block.

Frame n is centred on sample n `hop_length`, and the signal is zero outside its ends. Each block of
frames uses only its own samples, so memory depends on the block, not on the song.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Samples in the segments of one block, over all leading axes: 4 MiB of float32.
_BLOCK_SAMPLES = 2**20


def frame_count(samples: int, hop_length: int) -> int:
    """Number of frames needed to cover every sample by all windows that reach it."""
    return math.ceil(samples / hop_length) + 1


def blocks(signals: int, frames: int, n_fft: int) -> Iterator[range]:
    """Split the frames of signals that are transformed together into ranges of bounded size."""
    size = max(1, _BLOCK_SAMPLES // (signals * n_fft))
    for first in range(0, frames, size):
        yield range(first, min(first + size, frames))


def segments(signal: Tensor, frames: range, n_fft: int, hop_length: int) -> Tensor:
    """Cut consecutive frames out of waveforms (..., T), without a window.

    Returns:
        Segments, shape (..., N, n_fft); frames share memory where they overlap.
    """
    start = frames.start * hop_length - n_fft // 2
    stop = start + (len(frames) - 1) * hop_length + n_fft
    part = signal[..., max(start, 0) : min(stop, signal.shape[-1])]
    missing = (max(-start, 0), max(stop - signal.shape[-1], 0))
    return torch.nn.functional.pad(part, missing).unfold(-1, n_fft, hop_length)


def spectra(segments: Tensor, window: Tensor) -> Tensor:
    """Complex spectra (..., N, F) of segments (..., N, n_fft), F = n_fft // 2 + 1."""
    transformed: Tensor = torch.fft.rfft(segments * window)
    return transformed
