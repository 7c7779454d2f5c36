"""Memory format and padding of spectrograms in 2-D convolutional networks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

memory_format = torch.channels_last
"""Memory format of 2-D convolutions; ``benchmark step --channels-first`` measures its gain."""

_Images = TypeVar("_Images", Tensor, nn.Module)


def to_channels_last(images: _Images) -> _Images:
    """Convert images (B, C, F, N), or a network in place, to ``torch.channels_last``.

    That makes 2-D convolutions faster.
    """
    moved: _Images = images.to(memory_format=memory_format)
    return moved


def up_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad both axes at their ends with zeros to the next multiple.

    Args:
        image: Spectrograms, shape (B, C, F, N).
        multiple: Divisor of the new sizes; for 16, 1025 x 173 becomes 1040 x 176.

    Returns:
        The padded image, channels last in memory.
    """
    height, width = image.shape[-2:]
    # -size % multiple, in a form that torch.compile (2.14) accepts with dynamic shapes.
    right, above = (multiple - 1 - (size - 1) % multiple for size in (width, height))
    return to_channels_last(nn.functional.pad(image, (0, right, 0, above)))
