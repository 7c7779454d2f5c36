"""Combine the estimates of several models: mean, median, or smallest or largest magnitude.

Medians and magnitudes are taken sample by sample, or of the bins of short-time spectra. The
transform of 2048 samples every 1024 is that of the ensembles of MSST and Ultimate Vocal Remover.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.inference.options import Combination
from lightning_modules.inference.streams import aligned, blocks_with_margins, change_spectrum

_N_FFT, _HOP = 2048, 1024
_BLOCK = 64 * _HOP


@dataclass(frozen=True)
class Estimate:
    """A member's estimate of a source.

    Attributes:
        row: Its position among all estimates of all members.
        weight: Its weight in the mean.
    """

    row: int
    weight: float


def combine_streams(
    streams: Sequence[Iterator[Tensor]],
    sources: Sequence[Sequence[Estimate]],
    combination: Combination,
) -> Iterator[Tensor]:
    """Combine the streams of several models' estimates.

    Args:
        streams: Of each model, consecutive parts of its estimates, shape (S_m, C, n).
        sources: For each source, the estimates to combine.
        combination: ``mean``: weighted mean of the waveforms. ``median``: of the samples. ``min``,
            ``max``: the sample of the smallest or largest magnitude. ``median_spectrum``,
            ``min_spectrum``, ``max_spectrum``: the same for the magnitudes of the bins of spectra;
            the phase is that of the chosen bin. Of an even number of estimates, a median is the
            mean of the two in the middle.

    Yields:
        Consecutive parts of the combined estimates, shape (S, C, n).
    """
    name, _, domain = combination.partition("_")

    def combine(estimates: Tensor) -> Tensor:
        """Map all estimates (R, C, ...) to one for each source (S, C, ...)."""
        return torch.stack([_combined(estimates, source, name) for source in sources])

    joined = (torch.cat(parts) for parts in aligned(streams))
    if not domain:
        yield from map(combine, joined)
        return
    for block, samples in blocks_with_margins(joined, _BLOCK, _N_FFT):
        changed = change_spectrum(block, combine, _N_FFT, _HOP)
        yield changed[..., :samples].to(block.dtype)


def _combined(estimates: Tensor, source: Sequence[Estimate], name: str) -> Tensor:
    if name == "mean":
        mean, total = estimates[source[0].row], source[0].weight
        for estimate in source[1:]:
            total += estimate.weight
            # lerp between equal values returns that value without rounding.
            mean = torch.lerp(mean, estimates[estimate.row], estimate.weight / total)
        return mean
    values = estimates[[estimate.row for estimate in source]]  # (K, C, ...)
    if name == "median" and not values.is_complex():
        return _middle(values.sort(0).values)
    order = values.abs().argsort(0)
    if name == "median":
        return _middle(values.gather(0, order))
    chosen = order[:1] if name == "min" else order[-1:]
    return values.gather(0, chosen)[0]


def _middle(ordered: Tensor) -> Tensor:
    """Return the middle of values that are ordered along the first axis, or of two the mean."""
    number = len(ordered)
    return (ordered[(number - 1) // 2] + ordered[number // 2]) / 2
