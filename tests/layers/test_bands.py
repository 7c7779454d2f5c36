"""Bands against their published widths, and layers per band against loops over nn.Linear."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.layers.bands import (
    BandLayout,
    BandMLP,
    BandSplit,
    Bins,
    Norm,
    bands_between,
    consecutive_bands,
    mel_bands,
)

MEL_STARTS = [
    0, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34, 37, 40, 43, 46, 49, 53, 56, 60, 65, 69, 74, 79, 84,
    90, 97, 103, 110, 118, 126, 135, 145, 155, 165, 177, 189, 203, 217, 232, 248, 265, 284, 304,
    325, 348, 372, 398, 426, 455, 487, 521, 558, 597, 638, 683, 731, 782, 836, 895,
]  # fmt: skip
OVERLAPPING: list[Bins] = [[0, 1, 2], [2, 3], [3, 4, 5, 6], [5, 6, 7]]


def test_mel_bands_have_the_published_bins() -> None:
    bands = mel_bands(60, 2048, 44100)
    assert [band[0] for band in bands] == MEL_STARTS
    assert sum(map(len, bands)) == 1979
    counts = np.bincount(np.concatenate(bands))
    assert (counts == 1).sum() == 71
    assert (counts == 2).sum() == 954


@pytest.mark.parametrize(
    ("number", "n_fft", "rate"), [(60, 2048, 44100), (40, 2048, 22050), (64, 4096, 48000)]
)
def test_mel_bands_are_where_librosas_filters_are_positive(
    number: int, n_fft: int, rate: int
) -> None:
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=number)
    filters[0, 0] = filters[-1, -1] = 1
    expected = [np.flatnonzero(row > 0).tolist() for row in filters]
    assert [list(band) for band in mel_bands(number, n_fft, rate)] == expected


def test_too_many_mel_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"60 mel bands with n_fft 256 .* use fewer bands"):
        mel_bands(60, 256, 44100)


def test_bands_between_frequencies_cover_all_bins() -> None:
    bands = bands_between([100, 200, 1000, 30000], n_fft=2048, sample_rate=44100)
    assert [len(band) for band in bands] == [5, 5, 37, 978]  # bins are 21.53 Hz apart
    assert [number for band in bands for number in band] == list(range(1025))


@pytest.mark.parametrize(
    ("bands", "message"),
    [([[0, 1], [3]], "do not contain bin 2"), ([[0, 1, 2], [3, 4]], "contain bin 4")],
)
def test_bands_must_cover_the_bins(bands: list[Bins], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message}, but must cover the 4 bins .*n_fft 6"):
        BandLayout(bands, 4)


@pytest.mark.parametrize("bands", [consecutive_bands([1, 1, 2, 2, 2]), OVERLAPPING])
def test_averaging_what_was_gathered_gives_the_input(bands: list[Bins]) -> None:
    layout = BandLayout(bands, 8)
    features = torch.randn(3, 8, 4)
    assert torch.allclose(layout.average(layout.gather(features)), features)


def by_band(layout: BandLayout, group_values: list[Tensor]) -> list[Tensor]:
    """Sort values of groups, each with the bands on its first axis, into the order of bands."""
    found = {
        band: values[place]
        for values, (_, members) in zip(group_values, layout.groups, strict=True)
        for place, band in enumerate(members)
    }
    return [found[band] for band in range(layout.number)]


@pytest.mark.parametrize("bands", [consecutive_bands([1, 1, 2, 2, 2]), OVERLAPPING])
@pytest.mark.parametrize(("norm", "extra_linear"), [("rms", False), ("layer", True)])
def test_layers_equal_loops_over_bands(bands: list[Bins], norm: Norm, extra_linear: bool) -> None:
    layout, rows, channels, size = BandLayout(bands, 8), 3, 4, 6
    split = BandSplit(layout, channels, size, norm)
    for parameter in split.norms.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    spectrum = torch.randn(rows, 8, channels)
    weights = by_band(layout, [linear.get_parameter("weight") for linear in split.linears])
    biases = by_band(layout, [linear.get_parameter("bias") for linear in split.linears])
    gains = by_band(layout, [each.get_parameter("gain") for each in split.norms])
    features = split(spectrum)
    for band, found in enumerate(features):
        part = spectrum[:, list(bands[band])].flatten(1)
        offset, floor = torch.zeros(()), 0.0
        if norm == "layer":
            part, floor = part - part.mean(-1, keepdim=True), 1e-5
            offset = by_band(layout, [each.get_parameter("offset") for each in split.norms])[band]
        normed = part / (part.square().mean(-1, keepdim=True) + floor).sqrt() * gains[band] + offset
        assert torch.allclose(found, normed @ weights[band] + biases[band], atol=1e-5)

    mlp = BandMLP(
        layout, size, hidden=5, hidden_layers=2, channels=channels, extra_linear=extra_linear
    )
    total, holders = torch.zeros(rows, 8, channels), torch.zeros(8, 1)
    for band in range(len(bands)):
        hidden = features[band]
        for layer in range(3 + extra_linear):
            weight, bias = (
                by_band(layout, [part.get_parameter(f"{layer}.{kind}") for part in mlp.groups])[
                    band
                ]
                for kind in ("weight", "bias")
            )
            hidden = hidden @ weight + bias
            if layer < 2:
                hidden = torch.tanh(hidden)
        hidden = torch.nn.functional.glu(hidden, -1)
        total[:, list(bands[band])] += hidden.unflatten(1, (-1, channels))
        holders[list(bands[band])] += 1
    assert torch.allclose(mlp(features), total / holders, atol=1e-5)
