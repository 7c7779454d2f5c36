"""Mask U-Net: the paper's shapes and counts, sample rates, masks, alignment and loss."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.mask_unet import MaskUNet, MaskUNetwork
from lightning_modules.configuration.build import build_model

SOURCES = ["vocals", "accompaniment"]
PAPER = (16, 32, 64, 128, 256, 512)


def small(**arguments: Any) -> MaskUNet:
    torch.manual_seed(0)
    settings = {"channels": (4, 8), "n_fft": 256, "hop_length": 192, **arguments}
    return MaskUNet(SOURCES, **settings).eval()


def batch(samples: int = 40_000, channels: int = 2) -> Batch:
    targets = torch.randn(3, 2, channels, samples, generator=torch.manual_seed(1)) * 0.1
    return Batch(targets.sum(1), targets)


def test_parameter_count_equals_its_formula() -> None:
    encoder = [(25 * before + 1) * after for before, after in itertools.pairwise((1, *PAPER))]
    decoder = [
        (25 * before + 1) * after
        for before, after in [(512, 256), (512, 128), (256, 64), (128, 32), (64, 16), (32, 1)]
    ]
    norms = 2 * (sum(PAPER) + sum(PAPER[:-1]))
    network = MaskUNetwork(1, PAPER, 0.5)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == sum(encoder) + sum(decoder) + norms == 9_823_313


def test_output_shapes_of_layers_are_the_papers() -> None:
    """512 x 128 halved six times to 8 x 2 with 512 channels, and back."""
    network = MaskUNetwork(1, PAPER, 0.5).eval()
    shapes: list[tuple[int, ...]] = []
    for layer in [*network.encoder, *network.decoder, network.output]:
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        mask = network(torch.rand(2, 1, 512, 128))
    assert mask.shape == (2, 1, 512, 128)
    assert 0 < mask.min() < mask.max() < 1
    assert shapes == [
        (16, 256, 64),
        (32, 128, 32),
        (64, 64, 16),
        (128, 32, 8),
        (256, 16, 4),
        (512, 8, 2),
        (256, 16, 4),
        (128, 32, 8),
        (64, 64, 16),
        (32, 128, 32),
        (16, 256, 64),
        (1, 512, 128),
    ]


def test_settings_of_layers_are_the_papers() -> None:
    network = MaskUNetwork(1, PAPER, 0.5)
    for layer in network.encoder:
        assert isinstance(layer, nn.Sequential)
        convolution, norm, relu = layer
        assert isinstance(convolution, nn.Conv2d)
        assert (convolution.kernel_size, convolution.stride) == ((5, 5), (2, 2))
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(relu, nn.LeakyReLU)
        assert relu.negative_slope == 0.2
    rates = []
    for layer in network.decoder:
        assert isinstance(layer, nn.Sequential)
        up, norm, rectifier, dropout = layer
        assert isinstance(up, nn.ConvTranspose2d)
        assert (up.kernel_size, up.stride) == ((5, 5), (2, 2))
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(rectifier, nn.ReLU)
        assert isinstance(dropout, nn.Dropout)
        rates.append(dropout.p)
    assert rates == [0.5, 0.5, 0.5, 0.0, 0.0]
    assert [type(layer).__name__ for layer in network.output] == ["ConvTranspose2d", "Sigmoid"]


def test_skip_connections_join_layers_of_the_same_size() -> None:
    """The output depends on every encoder layer; the outermost skip bypasses all others."""
    network = MaskUNetwork(1, (4, 8, 16), 0.0).eval()
    image = torch.rand(1, 1, 32, 16)
    for layer in network.encoder:
        changed = network(image)
        handle = layer.register_forward_hook(lambda _m, _i, out: out + 1)
        assert not torch.equal(network(image), changed)
        handle.remove()
    with torch.no_grad():
        # The last 4 inputs of the output layer are the first encoder layer's channels.
        assert isinstance(network.output[0], nn.ConvTranspose2d)
        network.output[0].weight[:4] = 0
        before = network(image)
        network.encoder[2].register_forward_hook(lambda _m, _i, out: out * 0)
        network.encoder[1].register_forward_hook(lambda _m, _i, out: out * 0)
        assert torch.equal(network(image), before)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (512, 130)])
def test_images_of_any_size(shape: tuple[int, int]) -> None:
    network = MaskUNetwork(2, (4, 8, 8), 0.0).eval()
    assert network(torch.rand(2, 2, *shape)).shape == (2, 2, *shape)


@pytest.mark.slow
def test_config_has_the_papers_image_and_parameter_count() -> None:
    """512 bins and 128 frames, at 44,100 Hz as at 8192 Hz."""
    model = build_model("mask_unet").model
    assert isinstance(model, MaskUNet)
    samples = round(model.segment_seconds * model.sample_rate)
    assert model.stft(torch.zeros(1, 2, samples)).shape[-1] == 128
    assert model.bins == 512
    mono = MaskUNet(["vocals"], audio_channels=1, sample_rate=8192)
    assert (mono.n_fft, mono.hop_length) == (1024, 768)
    assert mono.stft(torch.zeros(1, 1, round(11.85 * 8192))).shape[-2:] == (513, 128)
    assert sum(parameter.numel() for parameter in mono.parameters()) == 9_823_313


def test_bins_are_the_same_at_any_sample_rate() -> None:
    for rate in (8192, 22_050, 44_100, 48_000):
        model = small(sample_rate=rate, n_fft=1024, hop_length=768, audio_channels=1)
        time = torch.arange(2 * rate) / rate
        tone = torch.sin(2 * torch.pi * 1000 * time)  # bin 1000 x 1024 / 8192 = 125
        magnitudes = model.stft(tone[None, None]).abs()[0, 0, :, 10]
        assert int(magnitudes.argmax()) == 125
        assert model.n_fft / rate == pytest.approx(0.125, rel=2e-4)
        assert model.hop_length / rate == pytest.approx(768 / 8192, rel=5e-4)


def test_estimates_are_zero_above_half_the_mask_rate() -> None:
    model = small(n_fft=1024, hop_length=256)
    time = torch.arange(88_200, dtype=torch.float64) / 44_100
    low, high = (torch.sin(2 * torch.pi * f * time).float().expand(1, 2, -1) for f in (1000, 6000))
    model.networks = nn.ModuleDict({name: Ones() for name in SOURCES})
    with torch.no_grad():
        estimates = model(low + high)
    inside = slice(6000, -6000)
    assert (estimates[:, 0] - low)[..., inside].abs().max() < 1e-3


class Ones(nn.Module):
    """A mask of ones; stores its input."""

    def forward(self, image: Tensor) -> Tensor:
        self.image = image
        return torch.ones_like(image)


def test_masks_of_ones_return_the_mixture() -> None:
    """At the paper's rate, except for the dropped bin."""
    model = small(sample_rate=8192, n_fft=1024, hop_length=768)
    model.networks = nn.ModuleDict({name: Ones() for name in SOURCES})
    time = torch.arange(20_000) / 8192
    mixture = torch.sin(2 * torch.pi * 500 * time).expand(1, 2, -1)
    with torch.no_grad():
        estimates = model(mixture)
    inside = slice(1024, -1024)
    assert (estimates - mixture[:, None])[..., inside].abs().max() < 1e-4


def test_inputs_of_networks_are_normalised_by_their_peak() -> None:
    model = small()
    model.networks = nn.ModuleDict({name: Ones() for name in SOURCES})
    mixture = batch().mixture * torch.tensor([1.0, 1e-3, 100.0])[:, None, None]
    model(mixture)
    image = model.networks["vocals"].image
    assert isinstance(image, Tensor)
    assert torch.allclose(image.amax((1, 2, 3)), torch.ones(3))
    assert image.min() >= 0
    model = small()
    with torch.no_grad():
        estimates, louder = model(mixture), model(100 * mixture)
    assert (louder - 100 * estimates).abs().max() < 1e-5 * louder.abs().max()


def test_non_finite_samples_corrupt_only_the_frames_that_contain_them() -> None:
    model = small()
    with torch.no_grad():
        mixture = batch(60_000).mixture
        mixture[0, 0, 30_000] = torch.nan
        mixture[1, 0, 30_000] = torch.inf
        estimates = model(mixture)
    frames = slice(30_000 - 2 * model.n_fft, 30_000 + 2 * model.n_fft)
    assert not estimates[:2, :, 0, frames].isfinite().all()
    estimates[:2, :, 0, frames] = 0
    assert estimates.isfinite().all()


def test_loss_is_the_l1_distance_of_masked_magnitudes() -> None:
    model, data = small(), batch()
    mixture, targets = model.stft(data.mixture).abs(), model.stft(data.targets).abs()
    with torch.no_grad():
        masks, losses = model.estimate_masks(mixture), model.loss(data)
    bins, total = 128, 0.0
    for number, name in enumerate(SOURCES):
        distances = []
        for example in range(3):
            peak = mixture[example, :, :bins].max()
            estimate = masks[example, number] * mixture[example, :, :bins]
            difference = estimate - targets[example, number, :, :bins]
            distances.append((difference / peak).abs().mean())
        expected = torch.stack(distances).mean()
        assert losses[f"loss/{name}"] == pytest.approx(float(expected), rel=1e-4)
        total += float(expected)
    assert float(losses["loss"]) == pytest.approx(total, rel=1e-4)
