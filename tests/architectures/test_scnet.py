"""SCNet: counts, frames, the network's options, and that it overfits."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.scnet import SCNet
from lightning_modules.losses import SpectralRMSE
from tests.helpers.backward import gradients_and_kept
from tests.helpers.configs import settings_of
from tests.helpers.melodies import RATE
from tests.helpers.overfitting import SECONDS, overfitted_sdr

FOUR = ["vocals", "drums", "bass", "other"]
SMALL: dict[str, Any] = {"channels": [8, 8], "layers": 2, "n_fft": 512, "hop_length": 128}


def small(**arguments: Any) -> SCNet:
    torch.manual_seed(0)
    return SCNet(["vocals", "other"], **{**SMALL, **arguments})


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("scnet", 10_578_768),
        ("scnet/large", 42_181_232),
        ("scnet/xl", 54_006_896),
        ("scnet/xl_ihf", 53_466_800),
        ("scnet/masked", 10_578_768 + 18_516),
    ],
)
def test_parameter_counts(config: str, parameters: int) -> None:
    """Counted in the authors' code and in MSST; the released XL IHF has 214,063,778 bytes."""
    arguments = settings_of(config)["model"]
    training = ("optimizer", "lr_scheduler", "loss_function")
    arguments = {name: value for name, value in arguments.items() if name not in training}
    with patch.object(Tensor, "uniform_"), patch.object(Tensor, "normal_"):
        model = SCNet(FOUR, **arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("samples", "frames"), [(485_100, 476), (1, 2), (1023, 2), (1024, 4), (2048, 4), (3072, 6)]
)
def test_number_of_frames_is_even(samples: int, frames: int) -> None:
    model = small(n_fft=4096, hop_length=1024)
    assert model.network_input(torch.zeros(1, 2, samples)).shape == (1, 4, 2049, frames)


def test_standardised_input_makes_estimates_follow_the_level() -> None:
    mixture = noise(1, 2, 4000)
    with torch.no_grad():
        model = small(standardise_input=True).eval()
        assert torch.allclose(model(10 * mixture), 10 * model(mixture), rtol=1e-2, atol=1e-3)
        plain = small().eval()
        assert not torch.allclose(plain(10 * mixture), 10 * plain(mixture), rtol=1e-2, atol=1e-3)


def test_masks_are_bounded() -> None:
    """The parts of a mask are below one, so bins grow by the root of two at most."""
    model = small(estimate="mask", window="hann").eval()
    for parameter in model.parameters():
        parameter.data.mul_(10)
    spectrum = noise(1, 4, 257, 4)
    with torch.no_grad():
        estimates = model.spectra(spectrum)
    assert model.spectra(0 * spectrum).abs().max() == 0
    power = estimates.unflatten(2, (2, 2)).square().sum(3)
    limit = 2 * spectrum.unflatten(1, (2, 2)).square().sum(2)[:, None]
    assert (power <= limit * (1 + 1e-5)).all()
    assert (power > 0.5 * limit).any()


def test_checkpointed_gradients_are_equal_and_need_less_memory() -> None:
    gradients, kept = [], []
    targets = noise(1, 2, 2, 4000)
    for checkpointed in (False, "half", True):
        model = small(checkpoint_activations=checkpointed, layers=4).train()
        found, size = gradients_and_kept(model, targets)
        gradients.append(found)
        kept.append(size)
    for plain, *others in zip(*gradients, strict=True):
        assert plain is not None
        assert all(torch.equal(plain, other) for other in others)
    assert kept[2] < 0.5 * kept[1] < 0.4 * kept[0]


def test_loss_has_the_frames_of_the_model() -> None:
    loss = small().loss_function
    assert isinstance(loss, SpectralRMSE)
    assert (loss.n_fft, loss.hop_length) == (512, 128)


@pytest.mark.slow
def test_one_batch_is_overfitted() -> None:
    model = small(
        channels=[16, 16, 16],
        standardise_input=True,
        checkpoint_activations=False,
        sample_rate=RATE,
        segment_seconds=SECONDS,
    )
    assert (overfitted_sdr(model, steps=60, learning_rate=0.01) > 15).all()
