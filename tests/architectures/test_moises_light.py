"""Moises-Light: counts, frames, bins, memory, and that it overfits; estimates in ``reference``."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.moises_light import MoisesLight
from lightning_modules.losses import MSE, MultiResolutionComplexSTFT
from tests.helpers.backward import kept_share_of_checkpointed
from tests.helpers.configs import settings_of
from tests.helpers.melodies import RATE
from tests.helpers.overfitting import SECONDS, overfitted_sdr


def small(**arguments: Any) -> MoisesLight:
    torch.manual_seed(0)
    return MoisesLight(["vocals", "other"], **{**MoisesLight.tiny, **arguments})


@pytest.mark.parametrize(
    ("config", "published"),
    [
        ("moises_light", 5_451_216),
        ("moises_light/masked", 5_451_216),
        ("moises_light/paper_small", 2_558_768),
        ("moises_light/fullband", 5_477_844),
        ("moises_light/fullband_small", 2_805_796),
        ("moises_light/fullband_wide", 9_704_844),
        ("moises_light/fullband_small_wide", 4_323_976),
    ],
)
def test_parameter_counts(config: str, published: int) -> None:
    """The package counts rotary frequencies: 16 of each transformer, of which a block has two."""
    settings = settings_of(config)["model"]
    names = ("channels", "blocks", "subbands", "bins")
    with patch.object(Tensor, "uniform_"):
        model = MoisesLight(
            ["vocals", "drums", "bass", "other"],
            **{name: settings[name] for name in names if name in settings},
        )
    rotary = 2 * 16 * settings["blocks"]
    assert sum(p.numel() for p in model.parameters()) == published - rotary


def test_one_source_needs_no_convolution_of_sources() -> None:
    counts = [
        sum(p.numel() for p in MoisesLight(sources, **MoisesLight.tiny).parameters())
        for sources in (["a"], ["a", "b"])
    ]
    assert counts[1] - counts[0] == 8 * 4 + 8


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 8), (6 * 1024, 8), (7 * 1024, 16), (396_900, 392)]
)
def test_number_of_frames_is_a_multiple(samples: int, frames: int) -> None:
    """There is one frame more than hops, also after a whole number of hops."""
    model = small(n_fft=6144, hop_length=1024, scales=3)
    assert model.network_input(torch.zeros(1, 2, samples)).shape == (1, 4, 3073, frames)


@pytest.mark.parametrize("estimate", ["spectrum", "mask"])
def test_bins_that_are_not_estimated_are_zero(estimate: str) -> None:
    model = small(bins=64, estimate=estimate)
    with torch.no_grad():
        estimates = model.spectra(torch.randn(1, 4, 129, 8))
    assert estimates.shape == (1, 2, 4, 129, 8)
    assert not estimates[..., 64:, :].any()
    assert estimates[..., :64, :].all()


def test_loss_is_the_papers() -> None:
    assert isinstance(small().loss_function, MultiResolutionComplexSTFT)


def test_checkpointed_gradients_are_equal_and_need_less_memory() -> None:
    targets = 0.1 * torch.randn(1, 2, 2, 64 * 40)
    plain, checkpointed = (
        small(checkpoint_activations=each, depth=2).train() for each in (False, True)
    )
    assert kept_share_of_checkpointed(plain, checkpointed, targets) < 0.7


@pytest.mark.slow
def test_one_batch_is_overfitted() -> None:
    model = small(
        channels=32, scales=1, n_fft=1024, hop_length=500, bins=512, loss_function=MSE(),
        sample_rate=RATE, segment_seconds=SECONDS,
    )  # fmt: skip
    assert (overfitted_sdr(model, steps=80, learning_rate=0.03) > 15).all()
