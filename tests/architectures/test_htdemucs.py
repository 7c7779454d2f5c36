"""HTDemucs: settings of separation, gradients, recipes, and learning one batch by heart.

Parity with the package's network is tested in ``tests/reference``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.architectures.htdemucs import HTDemucs
from tests.helpers.configs import settings_of, tiny_model


def small(**arguments: Any) -> HTDemucs:
    torch.manual_seed(0)
    return HTDemucs(["vocals", "other"], **{**HTDemucs.tiny, **arguments})


def tones(seconds: float, rate: int) -> Tensor:
    """Two sources of pulsating tones, the second with noise, shape (1, 2, 1, T)."""
    times = torch.arange(int(seconds * rate)) / rate
    random = torch.Generator().manual_seed(0)

    def tone(hertz: float, pulses: float) -> Tensor:
        pulse = 0.5 + 0.5 * (2 * torch.pi * pulses * times).sin()
        return 0.2 * (2 * torch.pi * hertz * times).sin() * pulse

    noise = 0.05 * torch.randn(len(times), generator=random)
    return torch.stack([tone(440, 1.5) + tone(880, 2), tone(110, 3) + noise])[None, :, None]


def test_songs_are_separated_as_the_package_does() -> None:
    settings = small().separation_settings
    assert (settings.overlap, settings.overlap_window, settings.edges) == (
        0.25, "triangle", "context",
    )  # fmt: skip
    assert settings.normalise_mixture
    assert small(overlap_window="hann").separation_settings.overlap_window == "hann"


@pytest.mark.parametrize("bottleneck_channels", [0, 16])
def test_all_weights_get_a_gradient(bottleneck_channels: int) -> None:
    model = small(bottleneck_channels=bottleneck_channels).train()
    targets = torch.randn(1, 2, 2, 3000)
    model.loss(Batch(targets.sum(1), targets))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_dropout_and_checkpointing_draw_the_same_numbers() -> None:
    targets = torch.randn(1, 2, 2, 3000)
    losses = []
    for checkpoint_activations in (False, True):
        model = small(dropout=0.5, checkpoint_activations=checkpoint_activations).train()
        torch.manual_seed(1)
        loss = model.loss(Batch(targets.sum(1), targets))["loss"]
        loss.backward()
        weights = model.network.crosstransformer.layers[0].linear1.weight  # type: ignore[union-attr]
        losses.append((loss.detach(), weights.grad))
    (plain, gradient), (checkpointed, again) = losses
    assert torch.equal(plain, checkpointed)
    assert torch.allclose(gradient, again, rtol=1e-4, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.slow
def test_learns_a_batch_by_heart() -> None:
    """120 steps on two seconds."""
    rate = 4000
    model = small(sample_rate=rate, audio_channels=1, depth=3).train()
    targets = tones(2.0, rate)
    batch = Batch(targets.sum(1), targets)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        errors = model.eval()(batch.mixture) - targets
    sdr = 10 * (targets.square().sum((2, 3)) / errors.square().sum((2, 3))).log10()
    assert sdr.min() > 15


def test_recipe_is_the_published_one() -> None:
    recipe = settings_of("htdemucs")
    assert recipe["model"]["optimizer"]["init_args"] == {"lr": 3e-4}
    assert recipe["data"]["batch_size"] * 800 == recipe["data"]["examples_per_epoch"]
    assert recipe["trainer"]["max_epochs"] == 360
    assert recipe["trainer"]["callbacks+"][0]["init_args"] == {
        "per_step": [0.9995, 0.9999],
        "per_epoch": [0.9, 0.95],
    }


def test_fine_tuning_counts_one_source() -> None:
    model = tiny_model("htdemucs/ft").train()
    targets = torch.randn(1, 4, 2, 2000)
    losses = model.loss(Batch(targets.sum(1), targets))
    assert torch.equal(losses["loss"], losses["loss/vocals"])
