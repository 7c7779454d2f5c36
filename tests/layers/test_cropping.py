"""Centre crop, also of odd differences."""

from __future__ import annotations

import torch

from lightning_modules.layers.cropping import centre


def test_odd_difference_removes_one_more_at_the_end() -> None:
    signal = torch.arange(7)[None]
    assert centre(signal, 7).tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert centre(signal, 4).tolist() == [[1, 2, 3, 4]]
    assert centre(signal, 1).tolist() == [[3]]
    assert centre(signal, 0).tolist() == [[]]
