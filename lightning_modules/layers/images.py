"""Spectrograms as images, for networks that halve both axes again and again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def up_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Lengthen both axes to the next multiple, by zeros above and to the right only.

    Args:
        image: Spectrograms, shape (B, C, F, N).
        multiple: What both axes must be multiples of; 1025 x 173 becomes 1040 x 176 for 16.

    Returns:
        The image, channels innermost in memory, which is faster on a CPU.
    """
    height, width = image.shape[-2:]
    padded = nn.functional.pad(image, (0, -width % multiple, 0, -height % multiple))
    return padded.contiguous(memory_format=torch.channels_last)
