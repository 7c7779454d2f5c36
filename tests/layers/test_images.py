"""Padding of spectrograms to a multiple."""

from __future__ import annotations

import torch

from lightning_modules.layers.images import up_to_multiple


def test_images_are_padded_to_the_next_multiple() -> None:
    for multiple in (1, 2, 16):
        for height, width in ((1, 1), (15, 16), (16, 17), (33, 31)):
            image = torch.rand(1, 2, height, width) + 1
            longer = up_to_multiple(image, multiple)
            assert torch.equal(longer[..., :height, :width], image)
            assert longer.count_nonzero() == image.numel()
            for size, before in zip(longer.shape[2:], (height, width), strict=True):
                assert size % multiple == 0 <= size - before < multiple
