"""Hybrid Demucs in the contract: any input, torchaudio's weights, recipe.

Parity with the package's network stands in ``tests/reference``.
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


def test_parameters_are_as_many_as_torchaudios() -> None:
    assert sum(p.numel() for p in HybridDemucs(FOUR).parameters()) == 83_639_368


@pytest.mark.parametrize(("n_fft", "depth"), [(1024, 5), (2048, 6), (4096, 6)])
def test_weights_of_torchaudio_go_in_as_they_are(n_fft: int, depth: int) -> None:
    torch.manual_seed(1)
    theirs = HDemucs(FOUR, channels=4, nfft=n_fft, depth=depth).eval()
    model = small(n_fft=n_fft)
    model.network.load_state_dict(theirs.state_dict())
    mixture = torch.randn(2, 2, 3 * n_fft + 1)
    with torch.no_grad():
        assert torch.equal(model(mixture), theirs(mixture))


def test_branches_begin_scaled_as_the_packages() -> None:
    scales = [part.scale for part in small().modules() if isinstance(part, _LayerScale)]
    assert scales
    assert all((scale == 1e-3).all() for scale in scales)


@pytest.mark.parametrize("n_fft", [1024, 4096])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 2, 639, 640, 1025, 5001])
def test_any_length_comes_back(samples: int, channels: int, n_fft: int) -> None:
    model = small(audio_channels=channels, n_fft=n_fft)
    for batch in (1, 2):
        with torch.no_grad():
            estimates = model(torch.randn(batch, channels, samples))
        assert estimates.shape == (batch, 4, channels, samples)
        assert estimates.isfinite().all()


@pytest.mark.parametrize("n_fft", [1024, 4096])
def test_silence_gives_silence_and_finite_gradients(n_fft: int) -> None:
    """And all weights that ranks would wait for get one."""
    model = small(n_fft=n_fft).train()
    batch = Batch(torch.zeros(2, 2, 5000), torch.zeros(2, 4, 2, 5000))
    assert model(batch.mixture).abs().max() == 0
    batch.mixture[1] = torch.randn(2, 5000)
    model.loss(batch)["loss"].backward()
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            assert weights.grad is not None, name
            assert weights.grad.isfinite().all(), name
    still = [name for name, weights in model.named_parameters() if not weights.requires_grad]
    assert still == (
        ["network.time_encoder.4.norm1.weight", "network.time_encoder.4.norm1.bias"]
        if n_fft == 4096
        else []
    )


def test_precision_of_the_input_comes_back() -> None:
    model, mixture = small(), torch.randn(1, 2, 5000)
    with torch.no_grad():
        plain = model(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(mixture)
        assert mixed.dtype == torch.float32
        assert (mixed - plain).abs().max() < 0.1 * plain.abs().max()
        assert model(mixture.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"n_fft": 512}, "n_fft is 512.*one of 1024, 2048, 4096"), ({"channels": 3}, "channels 3")],
)
def test_faulty_numbers_are_refused_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)


def test_recipe_is_the_published_one() -> None:
    recipe = settings_of("hybrid_demucs")
    assert recipe["model"]["optimizer"]["init_args"] == {"lr": 3e-4}
    assert recipe["model"]["loss_function"] == "lightning_modules.losses.L1"
    assert (recipe["model"]["channels"], recipe["model"]["n_fft"]) == (48, 4096)
    assert (recipe["data"]["batch_size"], recipe["data"]["segment_seconds"]) == (64, 10.0)
    assert recipe["trainer"]["max_epochs"] == 6000
