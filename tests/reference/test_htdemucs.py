"""HTDemucs against the package ``demucs``, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs as Package
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.htdemucs import HTDemucs, HTDemucsNetwork

SOURCES = ["drums", "bass", "other", "vocals"]
SMALL = {"channels": 8, "t_layers": 3, "t_heads": 2, "dconv_mode": 3}
OURS = {"channels": 8, "transformer_layers": 3, "heads": 2}
SIZES = [
    ({"bottom_channels": 16}, {"bottleneck_channels": 16}),
    ({}, {"bottleneck_channels": 0}),
    ({"nfft": 2048, "t_hidden_scale": 2.0}, {"n_fft": 2048, "expansion": 2}),
    ({"depth": 3, "nfft": 512, "t_layers": 2}, {"depth": 3, "n_fft": 512, "transformer_layers": 2}),
]
# Longer than a frame, a multiple of all strides, and shorter than the padding.
LENGTHS = (9001, 8192, 1000)


def pair(
    theirs: dict[str, Any] | None = None, ours: dict[str, Any] | None = None, **settings: Any
) -> tuple[nn.Module, HTDemucs]:
    """Both models, in evaluation mode, with the same random weights, gains and biases."""
    torch.manual_seed(0)
    settings = {"use_train_segment": False, **SMALL, **(theirs or {}), **settings}
    package: nn.Module = Package(SOURCES, **settings).eval()
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # scales are small, gains 1
    arguments: dict[str, Any] = {"bottleneck_channels": 0, **OURS, **(ours or {})}
    model = HTDemucs(SOURCES, **arguments).eval()
    model.network.load_state_dict(package.state_dict())
    return package, model


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("sources", "bottleneck", "layers", "count"),
    [
        (4, 512, 5, 41_984_456),
        (6, 0, 5, 27_414_996),
        (4, 512, 7, 54_604_232),
        (4, 0, 5, 27_410_376),
    ],
)
def test_parameter_counts(sources: int, bottleneck: int, layers: int, count: int) -> None:
    with torch.device("meta"):  # without initial values
        network = HTDemucsNetwork(
            sources, 2, 48, 4, 4096, bottleneck, layers, heads=8, expansion=4, dropout=0.0,
            checkpoint_activations=False,
        )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("theirs", "ours"), SIZES, ids=str)
def test_estimates_agree(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    package, model = pair(theirs, ours)
    for samples in LENGTHS:
        mixture = noise(2, 2, samples)
        with torch.no_grad():
            assert_equal(model(mixture), package(mixture))


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_losses_and_gradients_agree(checkpoint_activations: bool) -> None:
    package, model = pair(
        {"bottom_channels": 16},
        {"bottleneck_channels": 16, "checkpoint_activations": checkpoint_activations},
    )
    targets = noise(2, 4, 2, 6000)
    batch = Batch(targets.sum(1), targets)
    loss = model.train().loss(batch)["loss"]
    loss.backward()
    expected = nn.functional.l1_loss(package.train()(batch.mixture), targets)
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    found = dict(model.network.named_parameters())
    largest = max(p.grad.abs().max() for p in package.parameters() if p.grad is not None)
    for name, weights in package.named_parameters():
        mine, theirs = found.pop(name).grad, weights.grad
        assert mine is not None
        assert theirs is not None
        # Some are zero but for rounding, such as those of the keys' biases.
        tolerance = 1e-4 * theirs.abs().max() + 1e-6 * largest
        assert (mine - theirs).abs().max() < tolerance, name
    assert not found


def test_initial_weights_have_the_same_deviations() -> None:
    torch.manual_seed(0)
    theirs = Package(SOURCES, channels=16, dconv_mode=3, bottom_channels=64).state_dict()
    ours = HTDemucs(SOURCES, channels=16, bottleneck_channels=64).network.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    for name, value in theirs.items():
        if value.numel() > 2000:
            assert ours[name].std() / value.std() == pytest.approx(1, abs=0.1), name
        elif value.numel() > 1 and not value.std():
            assert torch.equal(ours[name], value), name


SEGMENT = 8192


@pytest.mark.parametrize("samples", [5000, SEGMENT, 2 * SEGMENT + 1, 30_011])
def test_whole_tracks_agree(samples: int) -> None:
    """Shorter than a segment, as long as one, and longer, as the package's command separates."""
    package, model = pair(use_train_segment=True, segment=SEGMENT / 44100)
    model.segment_seconds = SEGMENT / 44100
    mixture = noise(2, samples) + 0.02
    mean, deviation = mixture.mean(0).mean(), mixture.mean(0).std() + 1e-8
    expected = apply_model(package, ((mixture - mean) / deviation)[None], shifts=0)[0]
    assert_equal(model.separate(mixture), expected * deviation + mean)
