"""Bands of a spectrum whose bins are compressed by convolutions with different strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Band(NamedTuple):
    """A band of a stage: which bins of its input, and how they are compressed."""

    first: int
    bins: int
    kernel: int
    stride: int
    depth: int

    @property
    def padding(self) -> int:
        """Zeros added to the bins, of which the smaller half comes first."""
        return self.kernel - 1 if self.stride == 1 else -self.bins % self.stride

    @property
    def compressed(self) -> int:
        """Number of bins after the compression."""
        return (self.bins + self.padding - self.kernel) // self.stride + 1

    @property
    def expanded(self) -> int:
        """Number of bins of the transposed convolution, from which ``bins`` are cut."""
        return (self.compressed - 1) * self.stride + self.kernel


def bands_of(
    bins: int,
    shares: Sequence[float],
    strides: Sequence[int],
    kernels: Sequence[int],
    depths: Sequence[int],
) -> list[Band]:
    """Divide the bins of a spectrum into bands.

    Args:
        bins: Number of bins.
        shares: Share of the bins in each band but the highest, which has the rest.
        strides: Compression of each band.
        kernels: Length of the convolution kernel of each band, bins.
        depths: Convolution modules of each band.

    Raises:
        ValueError: The settings do not fit each other or the number of bins.
    """
    if not len(shares) + 1 == len(strides) == len(kernels) == len(depths):
        raise ValueError(
            f"band_shares are {list(shares)}, band_strides {list(strides)}, band_kernels "
            f"{list(kernels)}, band_depths {list(depths)}: give strides, kernels and depths for "
            "all bands, and shares for all but the highest"
        )
    # The sum of the first shares, as in the authors' code, whose rounding counts.
    edges = [0, *(math.ceil(bins * sum(shares[: n + 1])) for n in range(len(shares))), bins]
    bands = [
        Band(low, high - low, *rest)
        for (low, high), rest in zip(
            pairwise(edges), zip(kernels, strides, depths, strict=True), strict=True
        )
    ]
    for band in bands:
        if band.bins < 1 or min(band.stride, band.kernel) < 1 or band.depth < 0:
            raise ValueError(
                f"band_shares are {list(shares)}, band_strides {list(strides)}, band_kernels "
                f"{list(kernels)}, band_depths {list(depths)} for {bins} bins: each band needs at "
                "least one bin, a stride and a kernel of at least 1, a depth of at least 0; with "
                "fewer channels there are fewer stages, with a larger n_fft more bins"
            )
        if band.compressed < 1 or band.expanded < band.bins:
            raise ValueError(
                f"a band of {band.bins} bins has a kernel of {band.kernel} and a stride of "
                f"{band.stride}, which do not restore its bins: use kernels as long as their "
                "strides, or any with stride 1 (band_kernels, band_strides)"
            )
    return bands
