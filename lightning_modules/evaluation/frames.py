"""Short-time Fourier transforms of whole songs, some frames at a time.

Frame n is centred on sample n `hop_length`, and the signal counts as zero outside its ends. A
block of frames needs its own samples alone, so memory depends on the block, not on the song.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Samples that the segments of one block hold, over all leading axes: 4 MiB of float32.
_BLOCK_SAMPLES = 2**20


def frame_count(samples: int, hop_length: int) -> int:
    """Count the frames it takes to cover every sample by all the windows that reach it.

    Args:
        samples: Length of the signal.
        hop_length: Distance of two frames' centres, samples.

    Returns:
        Number of frames.
    """
    return math.ceil(samples / hop_length) + 1


def blocks(signals: int, frames: int, n_fft: int) -> Iterator[range]:
    """Cut a number of frames into blocks of bounded size.

    Args:
        signals: How many signals are transformed at once.
        frames: Number of frames of each.
        n_fft: Length of a frame, samples.

    Yields:
        Consecutive ranges of frames.
    """
    size = max(1, _BLOCK_SAMPLES // (signals * n_fft))
    for first in range(0, frames, size):
        yield range(first, min(first + size, frames))


def segments(signal: Tensor, frames: range, n_fft: int, hop_length: int) -> Tensor:
    """Cut the samples of some frames out of a signal, not windowed yet.

    Args:
        signal: Waveforms, shape (..., T).
        frames: Which frames; consecutive.
        n_fft: Length of a frame, samples.
        hop_length: Distance of two frames' centres, samples.

    Returns:
        Segments, shape (..., N, n_fft); frames share memory where they overlap.
    """
    start = frames.start * hop_length - n_fft // 2
    stop = start + (len(frames) - 1) * hop_length + n_fft
    part = signal[..., max(start, 0) : min(stop, signal.shape[-1])]
    missing = (max(-start, 0), max(stop - signal.shape[-1], 0))
    return torch.nn.functional.pad(part, missing).unfold(-1, n_fft, hop_length)


def spectra(segments: Tensor, window: Tensor) -> Tensor:
    """Transform segments.

    Args:
        segments: Waveforms, shape (..., N, n_fft).
        window: Window, shape (n_fft,).

    Returns:
        Complex spectra, not normalised, shape (..., N, F), F = n_fft // 2 + 1.
    """
    transformed: Tensor = torch.fft.rfft(segments * window)
    return transformed
