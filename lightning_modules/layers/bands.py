"""Bands of frequency bins, and layers with weights of their own for each band.

Bands of equal width are computed in one batched product. Padding all bands to the widest would
multiply the operations by eight for the bands of BS-RoFormer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

# Of the mean square, -200 dB: only silence is below it.
_FLOOR = 1e-20

Bins = Sequence[int]
"""Bins of a band."""
Norm = Literal["rms", "layer"]


def consecutive_bands(widths: Sequence[int]) -> list[Bins]:
    """Return bands that follow each other from bin 0 on, given their widths in bins."""
    return [range(start, stop) for start, stop in pairwise([0, *accumulate(widths)])]


def bands_between(edges_hz: Sequence[float], n_fft: int, sample_rate: int) -> list[Bins]:
    """Return bands that are separated by frequencies and cover all bins.

    Args:
        edges_hz: Increasing frequencies between the bands, Hz; a bin at an edge is in the upper
            band. Edges at or above half the sample rate are ignored.
        n_fft: Length of a frame, samples.
        sample_rate: Hz.

    Returns:
        Bands, without those that contain no bin.
    """
    bins = n_fft // 2 + 1
    starts = [math.ceil(edge * n_fft / sample_rate) for edge in edges_hz]
    limits = [0, *(min(start, bins) for start in starts), bins]
    return [range(start, stop) for start, stop in pairwise(limits) if stop > start]


def mel_bands(number: int, n_fft: int, sample_rate: int) -> list[Bins]:
    """Return overlapping bands: the bins where a triangular mel filter is positive.

    Wang, Lu and Won 2023, "Mel-band RoFormer for music source separation": neighbouring filters
    of Slaney's mel scale overlap by half; the first band also gets bin 0 and the last one the
    Nyquist bin.

    Raises:
        ValueError: A band contains no bin.
    """
    highest = _hz_to_mel(sample_rate / 2)
    points = _mel_to_hz(np.linspace(0, highest, number + 2))
    frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    bands: list[Bins] = []
    for lower, upper in zip(points, points[2:], strict=False):
        inside = (frequencies > lower) & (frequencies < upper)
        bands.append(np.flatnonzero(inside).tolist())
    bands[0] = sorted({0, *bands[0]})
    bands[-1] = sorted({*bands[-1], n_fft // 2})
    empty = [index for index, band in enumerate(bands) if not band]
    if empty:
        raise ValueError(
            f"{number} mel bands with n_fft {n_fft} at {sample_rate} Hz: band {empty[0]} contains "
            "no frequency bin; use fewer bands or a larger n_fft"
        )
    return bands


# Slaney's scale: linear below 1 kHz, logarithmic above.
_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return _BREAK_HZ / _HZ_PER_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    above = np.maximum(mels - _BREAK_HZ / _HZ_PER_MEL, 0)
    return np.where(above > 0, _BREAK_HZ * np.exp(_LOG_STEP * above), mels * _HZ_PER_MEL)


class BandLayout(nn.Module):
    """Gathers the features of bands, and distributes outputs of bands over the bins again.

    Inside this module's tensors, bands are sorted into groups of equal width.

    Args:
        bands: Bins of each band; every bin is in at least one band.
        bins: Number of bins, F.

    Attributes:
        groups: Of each group, the number of bins of a band and the bands' positions in ``bands``.

    Raises:
        ValueError: A bin is in no band, or a band has bins that do not exist.
    """

    def __init__(self, bands: Sequence[Bins], bins: int) -> None:
        super().__init__()
        covered = {number for band in bands for number in band}
        if covered != set(range(bins)):
            missing, unknown = set(range(bins)) - covered, covered - set(range(bins))
            fault = f"do not contain bin {min(missing or {0})}" if missing else ""
            fault = fault or f"contain bin {max(unknown)}"
            raise ValueError(
                f"the {len(bands)} bands {fault}, but must cover the {bins} bins of a spectrum "
                f"exactly (n_fft {2 * (bins - 1)}); correct the bands or n_fft"
            )
        self.bins, self.number = bins, len(bands)
        widths = [len(band) for band in bands]
        self.groups = [
            (width, [index for index, other in enumerate(widths) if other == width])
            for width in sorted(set(widths))
        ]
        order = [index for _, members in self.groups for index in members]
        gathered = torch.tensor([number for index in order for number in bands[index]])
        # Not saved, since they follow from the bands.
        self.register_buffer("gathered", gathered, persistent=False)
        self.register_buffer("order", torch.tensor(order).argsort(), persistent=False)
        self.register_buffer("holders", torch.bincount(gathered, minlength=bins), persistent=False)
        self.register_buffer("places", gathered.argsort(), persistent=False)
        self.gathered: Tensor
        self.order: Tensor
        self.holders: Tensor
        self.places: Tensor
        self.overlap = len(gathered) > bins
        # Bands that follow each other with growing widths need no copies.
        self.is_trivial = gathered.tolist() == list(range(bins))

    def gather(self, features: Tensor) -> list[Tensor]:
        """Collect the features of each band.

        Args:
            features: Shape (R, F, C), for any number of rows R.

        Returns:
            Of each group of n bands with w bins, shape (n, R, w C), bin by bin.
        """
        if not self.is_trivial:
            features = features.index_select(1, self.gathered)
        parts = features.split([width * len(members) for width, members in self.groups], 1)
        return [
            part.flatten(1).unflatten(1, (len(members), -1)).transpose(0, 1)
            for part, (_, members) in zip(parts, self.groups, strict=True)
        ]

    def average(self, groups: Sequence[Tensor]) -> Tensor:
        """Distribute outputs over the bins; a bin in several bands gets their mean.

        Args:
            groups: Of each group of n bands with w bins, shape (n, R, w C), bin by bin.

        Returns:
            Shape (R, F, C).
        """
        parts = [
            part.transpose(0, 1).flatten(1).unflatten(1, (width * len(members), -1))
            for part, (width, members) in zip(groups, self.groups, strict=True)
        ]
        joined = torch.cat(parts, 1)
        if self.is_trivial:
            return joined
        if not self.overlap:
            return joined.index_select(1, self.places)
        total = joined.new_zeros(joined.shape[0], self.bins, joined.shape[2])
        return total.index_add(1, self.gathered, joined) / self.holders[:, None]

    def in_order(self, groups: Sequence[Tensor]) -> Tensor:
        """Join outputs of groups, each (n, R, D), to those of all bands, shape (K, R, D)."""
        joined = torch.cat(list(groups))
        return joined if self.is_trivial else joined.index_select(0, self.order)

    def by_group(self, bands: Tensor) -> list[Tensor]:
        """Split features of all bands (K, R, D) into groups, each (n, R, D)."""
        if self.is_trivial:
            return list(bands.split([len(members) for _, members in self.groups]))
        return [bands[members] for _, members in self.groups]


class BandLinear(nn.Module):
    """Linear layer with weights of its own for each band, for the bands of one group.

    Args:
        bands: Number of bands n.
        inputs: Features of a band.
        outputs: Outputs of a band.
    """

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # initial values of nn.Linear
        self.weight = nn.Parameter(torch.empty(bands, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(bands, 1, outputs).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, R, inputs) to (n, R, outputs)."""
        return torch.baddbmm(self.bias, features, self.weight)


class BandNorm(nn.Module):
    """RMSNorm or LayerNorm with weights of its own for each band, in float32.

    Args:
        bands: Number of bands n.
        features: Features of a band, D.
        kind: ``rms``, with gains, or ``layer``, with gains and offsets.
    """

    def __init__(self, bands: int, features: int, kind: Norm) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(bands, 1, features))
        has_offset = kind == "layer"
        self.offset = nn.Parameter(torch.zeros(bands, 1, features)) if has_offset else None

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (n, R, D)."""
        if self.offset is None:
            return rms_normalised(features) * self.gain
        normed = nn.functional.layer_norm(features.float(), features.shape[-1:])
        return normed * self.gain + self.offset


class BandSplit(nn.Module):
    """Norm and linear layer of each band, from its bins to features.

    Args:
        layout: The bands.
        channels: Real numbers per bin, C.
        features: Features of a band, D.
        norm: Kind of the norm; see ``BandNorm``.
    """

    def __init__(
        self, layout: BandLayout, channels: int, features: int, norm: Norm = "rms"
    ) -> None:
        super().__init__()
        self.layout = layout
        sizes = [(len(members), width * channels) for width, members in layout.groups]
        self.norms = nn.ModuleList(BandNorm(n, size, norm) for n, size in sizes)
        self.linears = nn.ModuleList(BandLinear(n, size, features) for n, size in sizes)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Map a spectrum (R, F, C) to features of bands (K, R, D)."""
        outputs = [
            linear(norm(part))
            for part, norm, linear in zip(
                self.layout.gather(spectrum), self.norms, self.linears, strict=True
            )
        ]
        return self.layout.in_order(outputs)


class BandMLP(nn.Module):
    """Tanh layers and a gated linear output of each band, from features to its bins.

    Args:
        layout: The bands.
        features: Features of a band, D.
        hidden: Width of the hidden layers.
        hidden_layers: Their number.
        channels: Real numbers per bin, C.
        extra_linear: Two linear layers before the gates: to the outputs, then to twice as many.
    """

    def __init__(
        self,
        layout: BandLayout,
        features: int,
        hidden: int,
        hidden_layers: int,
        channels: int,
        extra_linear: bool = False,
    ) -> None:
        super().__init__()
        self.layout, self.hidden_layers = layout, hidden_layers
        sizes = [features, *[hidden] * hidden_layers]
        self.groups = nn.ModuleList()
        for width, members in layout.groups:
            outputs = width * channels
            last = [outputs, 2 * outputs] if extra_linear else [2 * outputs]
            self.groups.append(
                nn.ModuleList(
                    BandLinear(len(members), before, after)
                    for before, after in pairwise([*sizes, *last])
                )
            )

    def forward(self, bands: Tensor) -> Tensor:
        """Map features of bands (K, R, D) to the bins (R, F, C), averaged where bands overlap."""
        outputs = []
        for part, layers in zip(self.layout.by_group(bands), self.groups, strict=True):
            assert isinstance(layers, nn.ModuleList)
            for number, layer in enumerate(layers):
                part = layer(part)
                if number < self.hidden_layers:
                    part = torch.tanh(part)
            outputs.append(nn.functional.glu(part, -1))
        return self.layout.average(outputs)


def rms_normalised(features: Tensor) -> Tensor:
    """Divide features (..., D) by their root mean square, in float32; silence stays zero."""
    return nn.functional.rms_norm(features.float(), features.shape[-1:], eps=_FLOOR)
