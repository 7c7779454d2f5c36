"""Masks that divide a mixture among its sources."""

from typing import Literal

import torch
from torch import Tensor


def masks(magnitudes: Tensor, kind: Literal["ratio", "binary"]) -> Tensor:
    """Compute masks that add up to one from the sources' magnitudes.

    Args:
        magnitudes: Non-negative magnitudes, shape (B, S, ...).
        kind: ``ratio``, each source's share; or ``binary``, one for the strongest source.

    Returns:
        Masks in [0, 1], same shape. Where all sources are zero, a ratio mask gives equal shares
        and a binary mask gives the bin to the first. NaN counts as zero, infinity as the largest
        number.
    """
    # The largest value whose sum over sources is finite.
    largest = torch.finfo(magnitudes.dtype).max / magnitudes.shape[1]
    magnitudes = magnitudes.nan_to_num(nan=0.0, posinf=largest).clamp(max=largest)
    if kind == "binary":
        strongest = magnitudes.argmax(1, keepdim=True)
        return torch.zeros_like(magnitudes).scatter_(1, strongest, 1.0)
    total = magnitudes.sum(1, keepdim=True)
    # Shares of denormal numbers would not add up to one.
    smallest = torch.finfo(total.dtype).tiny
    shares = magnitudes / total.clamp_min(smallest)
    return torch.where(total >= smallest, shares, 1 / magnitudes.shape[1])
