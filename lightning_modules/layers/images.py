"""Spectrograms as images, for networks that halve both axes again and again."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

memory_format = torch.channels_last
"""Of convolutions over images; ``benchmark step --channels-first`` tells what it brings."""

_Images = TypeVar("_Images", Tensor, nn.Module)


def to_channels_last(images: _Images) -> _Images:
    """Lay images out with their channels side by side in memory, where convolutions are faster.

    Args:
        images: Images (B, C, F, N), or a network, whose kernels are laid out so in place.

    Returns:
        The same, so laid out.
    """
    moved: _Images = images.to(memory_format=memory_format)
    return moved


def up_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Lengthen both axes to the next multiple, by zeros above and to the right only.

    Args:
        image: Spectrograms, shape (B, C, F, N).
        multiple: What both axes must be multiples of; 1025 x 173 becomes 1040 x 176 for 16.

    Returns:
        The image, channels innermost.
    """
    height, width = image.shape[-2:]
    # -width % multiple, as compilers of changing shapes understand it (torch 2.14).
    right, above = (multiple - 1 - (size - 1) % multiple for size in (width, height))
    return to_channels_last(nn.functional.pad(image, (0, right, 0, above)))
