"""Feed-forward networks on frames: the paper's count, frames, masks and loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import nn

from datamodules.batches import Batch
from lightning_modules.architectures.fnn import FNN, FNNetwork
from lightning_modules.configuration.files import CONFIGS

FOUR = ["vocals", "drums", "bass", "other"]


def small(sources: list[str] = FOUR, **arguments: Any) -> FNN:
    torch.manual_seed(0)
    settings = {**FNN.tiny, "audio_channels": 1, "segment_seconds": 0.5, **arguments}
    return FNN(sources, **settings).eval()


def test_a_network_has_4_206_600_parameters_and_each_source_has_one() -> None:
    model = FNN(FOUR, audio_channels=1)
    for name in FOUR:
        assert sum(weights.numel() for weights in model.networks[name].parameters()) == 4_206_600
    assert sum(weights.numel() for weights in model.parameters()) == 4 * 4_206_600


def test_three_hidden_layers_of_1025_each_with_a_relu() -> None:
    layers = list(FNNetwork(1, 1025, [1025] * 3).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * 4
    for layer in layers[::2]:
        assert isinstance(layer, nn.Linear)
        assert (layer.in_features, layer.out_features) == (1025, 1025)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_frame_is_separated_as_if_it_were_alone(channels: int) -> None:
    torch.manual_seed(0)
    network = FNNetwork(channels, 33, [16, 8])
    magnitudes = torch.rand(2, channels, 33, 9)
    together = network(magnitudes)
    assert together.shape == magnitudes.shape
    for number in range(9):
        alone = network.layers(magnitudes[..., number].reshape(2, -1)).reshape(2, channels, 33)
        assert torch.allclose(together[..., number], alone, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 511, 20_001])
def test_any_length_comes_back_and_adds_up_to_the_mixture(samples: int, channels: int) -> None:
    model = small(audio_channels=channels)
    mixture = torch.randn(2, channels, samples) * 0.3
    with torch.no_grad():
        estimates = model(mixture)
    assert estimates.shape == (2, 4, channels, samples)
    assert (estimates.sum(1) - mixture).abs().max() < 1e-6
    assert model(torch.zeros(1, channels, samples)).abs().max() == 0


def test_a_sample_that_is_no_number_spoils_only_the_frames_that_hear_it() -> None:
    model = small()
    mixture = torch.randn(1, 1, 30_000) * 0.3
    mixture[..., 10_000] = float("nan")
    with torch.no_grad():
        spoilt = ~model(mixture).isfinite().all(1).flatten()
    assert spoilt[10_000]
    assert 10_000 - 2 * 512 < spoilt.nonzero().min() <= spoilt.nonzero().max() < 10_000 + 2 * 512


def test_loss_is_the_squared_error_of_whole_frames() -> None:
    model = small()
    targets = torch.randn(2, 4, 1, 2000) * 0.1
    losses = model.loss(Batch(targets.sum(1), targets))
    outputs = model.magnitudes(model.whole_frames(targets.sum(1)).abs())
    squares = (outputs - model.whole_frames(targets).abs()) ** 2
    assert torch.allclose(losses["loss"], squares.mean((0, 2, 3, 4)).sum())
    assert torch.allclose(losses["loss/bass"], squares[:, 2].mean())


def test_a_crop_of_the_config_is_one_frame_and_the_rest_is_as_for_the_autoencoders() -> None:
    config, other = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("fnn", "cdae")
    )
    samples = round(config["data"]["init_args"]["segment_seconds"] * 44100)
    assert samples == 2048
    model = FNN(["vocals", "rest"], audio_channels=1)
    assert model.whole_frames(torch.zeros(1, samples)).shape == (1, 1025, 1)
    for name in ("optimizer", "lr_scheduler", "mask", "n_fft", "hop_length"):
        assert config["model"]["init_args"][name] == other["model"]["init_args"][name]
    assert config["data"]["init_args"]["batch_size"] == other["data"]["init_args"]["batch_size"]
    assert config["trainer"] == other["trainer"]


def test_faulty_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden is \[8, 0\].*from 1 on"):
        small(hidden=[8, 0])
