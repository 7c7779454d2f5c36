"""Feed-forward networks: the paper's parameter count, layers, loss and recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from datamodules.batches import Batch
from lightning_modules.architectures.fnn import FNN, FNNetwork
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]


def small(sources: list[str] = FOUR, **arguments: Any) -> FNN:
    torch.manual_seed(0)
    settings = {**FNN.tiny, "audio_channels": 1, "segment_seconds": 0.5, **arguments}
    return FNN(sources, **settings).eval()


def test_parameter_count_is_the_papers() -> None:
    model = FNN(FOUR, audio_channels=1)
    for name in FOUR:
        assert sum(weights.numel() for weights in model.networks[name].parameters()) == 4_206_600
    assert sum(weights.numel() for weights in model.parameters()) == 4 * 4_206_600


def test_hidden_layers_have_1025_units_and_relus() -> None:
    layers = list(FNNetwork(1, 1025, [1025] * 3).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 4
    for layer in layers[::2]:
        assert isinstance(layer, nn.Linear)
        assert (layer.in_features, layer.out_features) == (1025, 1025)


@pytest.mark.parametrize("channels", [1, 2])
def test_frames_are_processed_independently(channels: int) -> None:
    torch.manual_seed(0)
    network = FNNetwork(channels, 33, [16, 8])
    magnitudes = torch.rand(2, channels, 33, 9)
    together = network(magnitudes)
    assert together.shape == magnitudes.shape
    for number in range(9):
        alone = network.layers(magnitudes[..., number].reshape(2, -1)).reshape(2, channels, 33)
        assert torch.allclose(together[..., number], alone, atol=1e-6)


def test_loss_is_the_squared_error_of_whole_frames() -> None:
    model = small()
    targets = torch.randn(2, 4, 1, 2000) * 0.1
    losses = model.loss(Batch(targets.sum(1), targets))
    outputs = model.magnitudes(model.whole_frames(targets.sum(1)).abs())
    squares = (outputs - model.whole_frames(targets).abs()) ** 2
    assert torch.allclose(losses["loss"], squares.mean((0, 2, 3, 4)).sum())
    assert torch.allclose(losses["loss/bass"], squares[:, 2].mean())


def test_recipe_is_that_of_the_cdae_with_crops_of_one_frame() -> None:
    config, other = settings_of("fnn"), settings_of("cdae")
    samples = round(config["data"]["segment_seconds"] * 44100)
    assert samples == 2048
    model = FNN(["vocals", "rest"], audio_channels=1)
    assert model.whole_frames(torch.zeros(1, samples)).shape == (1, 1025, 1)
    for name in ("optimizer", "lr_scheduler", "mask", "n_fft", "hop_length"):
        assert config["model"][name] == other["model"][name]
    assert config["data"]["batch_size"] == other["data"]["batch_size"]
    assert config["trainer"] == other["trainer"]
