"""Hybrid Demucs: torchaudio's weights, unused weights, recipe.

Parity with the package's network is tested in ``tests/reference``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchaudio.models import HDemucs
from torchaudio.models._hdemucs import _LayerScale

from datamodules.batches import Batch
from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]


def small(sources: list[str] = FOUR, **arguments: Any) -> HybridDemucs:
    torch.manual_seed(0)
    settings = {"channels": 4, "n_fft": 1024, "segment_seconds": 0.5, **arguments}
    return HybridDemucs(sources, **settings).eval()


@pytest.mark.slow
def test_parameter_count() -> None:
    assert sum(p.numel() for p in HybridDemucs(FOUR).parameters()) == 83_639_368


@pytest.mark.parametrize(("n_fft", "depth"), [(1024, 5), (2048, 6), (4096, 6)])
def test_estimates_equal_torchaudios_with_its_weights(n_fft: int, depth: int) -> None:
    torch.manual_seed(1)
    theirs = HDemucs(FOUR, channels=4, nfft=n_fft, depth=depth).eval()
    model = small(n_fft=n_fft)
    model.network.load_state_dict(theirs.state_dict())
    mixture = torch.randn(1, 2, 2 * n_fft + 1)
    with torch.no_grad():
        assert torch.equal(model(mixture), theirs(mixture))


def test_initial_scale_of_residual_branches_is_the_packages() -> None:
    scales = [part.scale for part in small().modules() if isinstance(part, _LayerScale)]
    assert scales
    assert all((scale == 1e-3).all() for scale in scales)


def test_all_used_weights_get_a_gradient() -> None:
    """DDP waits for the gradients of all weights that require one."""
    model = small(n_fft=4096).train()
    batch = Batch(torch.randn(1, 2, 3000), torch.zeros(1, 4, 2, 3000))
    model.loss(batch)["loss"].backward()
    without = [name for name, weights in model.named_parameters() if weights.grad is None]
    unused = ["network.time_encoder.4.norm1.weight", "network.time_encoder.4.norm1.bias"]
    assert without == unused
    assert [n for n, weights in model.named_parameters() if not weights.requires_grad] == unused


def test_recipe_is_the_published_one() -> None:
    recipe = settings_of("hybrid_demucs")
    assert recipe["model"]["optimizer"]["init_args"] == {"lr": 3e-4}
    assert recipe["model"]["loss_function"] == "lightning_modules.losses.L1"
    assert (recipe["model"]["channels"], recipe["model"]["n_fft"]) == (48, 4096)
    assert (recipe["data"]["batch_size"], recipe["data"]["segment_seconds"]) == (64, 10.0)
    assert recipe["trainer"]["max_epochs"] == 6000
