"""Bands of SCNet: bins per stage, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_modules.layers.compressed_bands import Band, bands_of

SCNET: dict[str, Any] = {
    "shares": (0.175, 0.392), "strides": (1, 4, 16), "kernels": (3, 4, 16), "depths": (3, 2, 1),
}  # fmt: skip


def test_bins_of_the_stages_of_scnet() -> None:
    found, bins = [], 2049
    for _ in range(3):
        bands = bands_of(bins, **SCNET)
        compressed = [band.compressed for band in bands]
        found.append(([band.bins for band in bands], compressed))
        bins = sum(compressed)
    assert found == [
        ([359, 803, 887], [359, 201, 56]),
        ([108, 242, 266], [108, 61, 17]),
        ([33, 73, 80], [33, 19, 5]),
    ]
    assert bins == 57


@pytest.mark.parametrize("bins", range(1, 40))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 1), (4, 4), (16, 16)])
def test_a_band_is_restored(bins: int, kernel: int, stride: int) -> None:
    band = Band(0, bins, kernel, stride, 1)
    assert band.compressed == (bins if stride == 1 else -(-bins // stride))
    assert band.expanded >= bins


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": (3, 2)}, r"band_depths \[3, 2\]: give strides, kernels and depths for all"),
        ({"shares": (0.5, 0.5)}, "each band needs at least one bin"),
        ({"strides": (1, 0, 16)}, "a stride and a kernel of at least 1"),
        ({"kernels": (3, 2, 16)}, r"a band of 803 bins has a kernel of 2 and a stride of 4"),
    ],
)
def test_mistakes(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bands_of(2049, **(SCNET | change))
