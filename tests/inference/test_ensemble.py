"""Combination of streams of estimates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor

from lightning_modules.inference.ensemble import Estimate, combine_streams
from lightning_modules.inference.options import Combination

WAVEFORMS = ("mean", "median", "min", "max")


def combined(
    members: list[Tensor], combination: str, sizes: tuple[int, ...] = (977, 3001)
) -> Tensor:
    """Combine the only source of members (C, T), whose streams have parts of different lengths."""
    streams = [
        iter(member[None].split(sizes[number % len(sizes)], -1))
        for number, member in enumerate(members)
    ]
    source = [Estimate(number, 1.0) for number in range(len(members))]
    return torch.cat([*combine_streams(streams, [source], combination)], -1)[0]  # type: ignore[arg-type]


def members(number: int, samples: int = 10_007) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(2, samples, generator=generator) for _ in range(number)]


@pytest.mark.parametrize("combination", WAVEFORMS)
@pytest.mark.parametrize("number", [1, 2, 5])
def test_equal_estimates_are_returned_bit_for_bit(combination: str, number: int) -> None:
    estimate = torch.randn(2, 5003)
    assert torch.equal(combined([estimate] * number, combination), estimate)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_waveforms_are_combined_sample_by_sample(number: int) -> None:
    waveforms = members(number)
    stacked = torch.stack(waveforms)
    assert torch.allclose(combined(waveforms, "mean"), stacked.mean(0), atol=1e-6)
    assert torch.allclose(combined(waveforms, "median"), stacked.quantile(0.5, 0), atol=1e-6)
    for name, function in (("min", torch.argmin), ("max", torch.argmax)):
        expected = stacked.gather(0, function(stacked.abs(), 0, keepdim=True))[0]
        assert torch.equal(combined(waveforms, name), expected)


def test_mean_is_weighted_and_sources_are_taken_from_their_rows() -> None:
    """Two members, the first with two sources, the second with the last of them."""
    first, second = torch.randn(2, 1, 999), torch.randn(1, 1, 999)
    sources = [[Estimate(0, 2.0)], [Estimate(1, 3.0), Estimate(2, 1.0)]]
    found = torch.cat(
        [*combine_streams([iter([first]), iter(second.split(100, -1))], sources, "mean")], -1
    )
    assert torch.equal(found[0], first[0])
    assert torch.allclose(found[1], 0.75 * first[1] + 0.25 * second[0], atol=1e-6)


def of_complete_spectra(waveforms: list[Tensor], combination: str) -> Tensor:
    """The definition: spectra of complete songs, combined bin by bin."""
    samples = waveforms[0].shape[-1]
    stacked = torch.nn.functional.pad(torch.stack(waveforms), (0, 4096))
    window = torch.hann_window(2048)
    spectra = torch.stft(
        stacked.flatten(0, 1), 2048, 1024, window=window, pad_mode="constant", return_complex=True
    ).unflatten(0, stacked.shape[:2])
    order = spectra.abs().argsort(0)
    last = len(waveforms) - 1
    ranks = {"min": [0], "max": [last], "median": [last // 2, len(waveforms) // 2]}
    chosen = [spectra.gather(0, order[[rank]])[0] for rank in ranks[combination.split("_")[0]]]
    mean = torch.stack(chosen).mean(0)
    return torch.istft(mean, 2048, 1024, window=window)[..., :samples]


@pytest.mark.parametrize("combination", ["median_spectrum", "min_spectrum", "max_spectrum"])
@pytest.mark.parametrize(("number", "samples"), [(2, 1), (3, 1500), (3, 150_001)])
def test_spectra_are_combined_as_those_of_complete_songs(
    combination: str, number: int, samples: int
) -> None:
    waveforms = members(number, samples)
    expected = of_complete_spectra(waveforms, combination)
    for sizes in ((samples,), (50_000, 70_001)):
        found = combined(waveforms, combination, sizes)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("combination", get_args(Combination))
def test_streams_are_read_only_as_far_as_needed(combination: str) -> None:
    read = [0, 0]

    def stream(number: int, size: int) -> Iterator[Tensor]:
        while True:
            read[number] += size
            yield torch.zeros(1, 1, size)

    source = [Estimate(0, 1.0), Estimate(1, 1.0)]
    found = combine_streams([stream(0, 1000), stream(1, 30_000)], [source], combination)  # type: ignore[arg-type]
    received = sum(next(found).shape[-1] for _ in range(10))
    assert max(read) < received + 2**17


def test_nothing_gives_nothing() -> None:
    assert not [*combine_streams([iter(())], [[Estimate(0, 1.0)]], "max_spectrum")]
