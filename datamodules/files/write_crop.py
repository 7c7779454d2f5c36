"""Copy PCM samples into a batch in one pass: convert, deinterleave, scale, swap channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31, torch.float32: 1.0, torch.float64: 1.0}


def write_crop(source: Tensor, target: Tensor, gain: float = 1.0, swap: bool = False) -> None:
    """Write a crop of a file into a batch, followed by zeros.

    Args:
        source: Interleaved samples, integers or floats, shape (t, channels).
        target: Tensor to write to, float32, shape (C, T), T at least t. A mono target gets the mean
            of the channels; a mono source is repeated.
        gain: Factor.
        swap: Reverse the order of the channels.
    """
    samples, channels = source.shape
    scale = gain / _FULL_SCALE[source.dtype]
    filled = target[:, :samples]
    # A track may be shorter than the crop.
    target[:, samples:].zero_()
    kernel = _stereo_kernel() if channels == target.shape[0] == 2 else None
    if kernel and source.is_contiguous():
        left, right = filled.numpy()[:: -1 if swap else 1]
        kernel(source.view(-1).numpy(), left, right, np.float32(scale))
        return
    if channels == target.shape[0]:
        # Channel by channel, as flipping the source would copy it.
        for row, channel in zip(filled, range(channels)[:: -1 if swap else 1], strict=True):
            row.copy_(source[:, channel])
    elif target.shape[0] == 1:
        torch.mean(source.T, 0, keepdim=True, dtype=torch.float32, out=filled)
    else:
        filled.copy_(source.T)
    filled.mul_(scale)


@cache
def _stereo_kernel() -> Callable[..., Any] | None:
    """The stereo case compiled by numba, if installed: twice as fast as two passes in torch."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(fastmath=True, nogil=True)
    def deinterleave(source: Any, left: Any, right: Any, scale: Any) -> None:
        for sample in range(left.shape[0]):
            left[sample] = source[2 * sample] * scale
            right[sample] = source[2 * sample + 1] * scale

    compiled: Callable[..., Any] = deinterleave
    return compiled
