"""Masks add up to one for any magnitudes."""

import torch

from lightning_modules.layers.masks import masks


def test_masks_add_up_to_one_where_all_sources_are_zero() -> None:
    magnitudes = torch.rand(2, 3, 5)
    magnitudes[:, :, 0] = 0
    magnitudes[:, :, 1] = 1e-42  # denormal
    for result in (masks(magnitudes, "ratio"), masks(magnitudes, "binary")):
        assert torch.allclose(result.sum(1), torch.ones(2, 5))
        assert result.isfinite().all()
    assert set(masks(magnitudes, "binary").unique().tolist()) == {0.0, 1.0}


def test_masks_of_non_finite_magnitudes_add_up_to_one() -> None:
    nan, inf = float("nan"), float("inf")
    largest = torch.finfo(torch.float32).max
    magnitudes = torch.tensor(
        [[nan, 1.0], [nan, nan], [inf, 1.0], [inf, inf], [nan, inf], [largest, largest]]
    )
    ratio = masks(magnitudes, "ratio")
    expected = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]
    assert torch.allclose(ratio, torch.tensor(expected))
    binary = masks(magnitudes, "binary")
    assert binary.tolist() == [[0, 1], [1, 0], [1, 0], [1, 0], [0, 1], [1, 0]]
