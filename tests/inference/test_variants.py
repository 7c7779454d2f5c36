"""Test-time augmentation, circular shifts and normalised mixtures, as keyword of separation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.inference.separation import SeparationSettings as Settings
from lightning_modules.inference.separation import separate, separate_stream
from tests.helpers.separators import Half, Identity


class Uneven(Half):
    """Its estimates depend on the channel, the polarity and the position in the chunk."""

    def __call__(self, mixture: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, mixture.shape[-1])
        changed = torch.relu(mixture) * torch.tensor([[1.0], [2.0]]) * ramp
        return super().__call__(changed)


EVERYTHING = Settings(
    overlap=0.5, shifts=2, circular_shifts=3, test_time_augmentation=True, normalise_mixture=True
)


@pytest.mark.parametrize("samples", [1, 2, 442, 5003])
def test_identity_is_exact_with_circular_shifts_and_augmentation(samples: int) -> None:
    mixture = torch.randn(2, samples)
    settings = Settings(shifts=2, circular_shifts=3, test_time_augmentation=True)
    assert torch.equal(separate(Identity(), mixture, settings=settings)[1], mixture)


@pytest.mark.parametrize("channels", [1, 2])
def test_augmentation_is_the_mean_over_swapped_and_inverted_mixtures(channels: int) -> None:
    model, mixture = Uneven(), torch.randn(channels, 3000)
    expected = separate(model, mixture) - separate(model, -mixture)
    number = 2
    if channels == 2:
        expected = expected + separate(model, mixture.flip(0)).flip(1)
        number = 3
    found = separate(model, mixture, settings=Settings(test_time_augmentation=True))
    assert torch.allclose(found, expected / number, atol=1e-6)


def test_circular_shifts_are_the_mean_over_rolled_mixtures() -> None:
    model, mixture = Uneven(), torch.randn(2, 5003)
    rolled = [
        separate(model, mixture.roll(-shift, -1)).roll(shift, -1) for shift in (0, 1250, 2500, 3750)
    ]
    found = separate(model, mixture, settings=Settings(circular_shifts=4))
    assert torch.allclose(found, torch.stack(rolled).mean(0), atol=1e-6)


def test_the_mixture_is_normalised_and_the_estimates_are_not() -> None:
    model, mixture = Uneven(), 3 + 5 * torch.randn(2, 4000)
    mono = mixture.numpy().mean(0)
    mean, deviation = float(mono.mean()), float(np.std(mono))
    expected = separate(model, (mixture - mean) / deviation) * deviation + mean
    found = separate(model, mixture, settings=Settings(normalise_mixture=True))
    assert torch.allclose(found, expected, atol=1e-4)


def test_silence_is_separated_with_a_normalised_mixture() -> None:
    found = separate(Identity(), torch.zeros(2, 1000), settings=Settings(normalise_mixture=True))
    assert not found.any()


def test_results_do_not_depend_on_blocks_and_progress_is_complete() -> None:
    mixture, progress = torch.randn(2, 5003), list[int]()
    whole = separate(Uneven(), mixture, settings=EVERYTHING)
    parts = separate_stream(
        Uneven(), mixture.split(700, -1), settings=EVERYTHING, progress=progress.append
    )
    assert torch.allclose(torch.cat(list(parts), -1), whole, atol=1e-5)
    assert sum(progress) == 5003


def test_empty_mixture() -> None:
    assert list(separate_stream(Identity(), [], settings=EVERYTHING)) == []
