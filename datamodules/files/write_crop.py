"""From PCM on disk to a place in a batch in one pass: convert, part the channels, scale, swap."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What a sample of full scale is, by type.
_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31, torch.float32: 1.0, torch.float64: 1.0}


def write_crop(source: Tensor, target: Tensor, gain: float = 1.0, swap: bool = False) -> None:
    """Write a crop of a file into a batch.

    Args:
        source: Samples as a WAV file has them, shape (t, channels), integers or floats.
        target: Where they go, float32, shape (C, T), T at least t. One channel takes the
            average of several, several take one each the same.
        gain: Factor.
        swap: Reverse the order of the channels.
    """
    samples, channels = source.shape
    scale = gain / _FULL_SCALE[source.dtype]
    heard = target[:, :samples]
    # A track shorter than the segment ends in silence.
    target[:, samples:].zero_()
    kernel = _stereo_kernel() if channels == target.shape[0] == 2 else None
    if kernel and source.is_contiguous():
        first, second = (1, 0) if swap else (0, 1)
        kernel(
            source.view(-1).numpy(), heard[first].numpy(), heard[second].numpy(), np.float32(scale)
        )
        return
    if channels == target.shape[0]:
        # Channel by channel: to flip the source would copy it.
        for row, channel in zip(heard, range(channels)[:: -1 if swap else 1], strict=True):
            row.copy_(source[:, channel])
    elif target.shape[0] == 1:
        torch.mean(source.T, 0, keepdim=True, dtype=torch.float32, out=heard)
    else:
        heard.copy_(source.T)
    heard.mul_(scale)


@cache
def _stereo_kernel() -> Callable[..., Any] | None:
    """The pass compiled by numba, where that is installed: twice as fast as torch's two passes."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(fastmath=True, nogil=True)
    def part(source: Any, left: Any, right: Any, scale: Any) -> None:
        for sample in range(left.shape[0]):
            left[sample] = source[2 * sample] * scale
            right[sample] = source[2 * sample + 1] * scale

    compiled: Callable[..., Any] = part
    return compiled
