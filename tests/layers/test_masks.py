"""Masks share out all of a mixture, whatever the magnitudes are."""

import torch

from lightning_modules.layers.masks import masks


def test_masks_add_up_to_one_even_where_all_is_zero() -> None:
    magnitudes = torch.rand(2, 3, 5)
    magnitudes[:, :, 0] = 0
    magnitudes[:, :, 1] = 1e-42  # denormal
    for result in (masks(magnitudes, "ratio"), masks(magnitudes, "binary")):
        assert torch.allclose(result.sum(1), torch.ones(2, 5))
        assert result.isfinite().all()
    assert set(masks(magnitudes, "binary").unique().tolist()) == {0.0, 1.0}
