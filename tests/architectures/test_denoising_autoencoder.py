"""The denoising autoencoder: sizes, edges, loss and training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.denoising_autoencoder import (
    Autoencoder,
    ConvBlock,
    DenoisingAutoencoder,
)


def model(**arguments: Any) -> DenoisingAutoencoder:
    torch.manual_seed(0)
    settings = {"n_fft": 256, "hop_length": 128, "sample_rate": 8000, "segment_seconds": 1.0}
    return DenoisingAutoencoder(["music"], **settings | arguments)


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_layers_and_parameter_count_are_the_papers() -> None:
    network = DenoisingAutoencoder(["music"])
    assert (network.n_fft, network.hop_length) == (1024, 512)
    assert parameters(network) == 11
    assert parameters(DenoisingAutoencoder(["music"], upsampling="bilinear")) == 6
    kinds = [type(part).__name__ for part in network.network.modules() if not [*part.children()]]
    assert kinds == ["Conv2d", "ReLU", "BatchNorm2d", "MaxPool2d", "ConvTranspose2d", "Conv2d"]


def test_initial_weights_are_kaimings_and_single_ones_positive() -> None:
    torch.manual_seed(0)
    block = ConvBlock(64, 128, 3)
    weight = block[0].weight
    assert isinstance(weight, Tensor)
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    for seed in range(10):
        torch.manual_seed(seed)
        single = ConvBlock(1, 1, 1)[0].weight
        assert isinstance(single, Tensor)
        assert single > 0


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("channels", [[2], [2, 3], [2, 3, 4]])
def test_output_sizes(channels: list[int], kernel_size: int, upsampling: Any) -> None:
    network = Autoencoder(2, channels, kernel_size, upsampling).eval()
    valid_sizes = set()
    for size in range(200, 210):
        valid = network.valid_size(size)
        assert size - network.multiple < valid <= size
        image = torch.rand(1, 1, valid, valid)
        assert network(image).shape == (1, 2, *[valid - 2 * network.margin] * 2)
        valid_sizes.add(valid)
        assert network.forward_reflected(torch.rand(1, 1, 7, size)).shape == (1, 2, 7, size)
    assert len(valid_sizes) > 1
    assert network.forward_reflected(torch.rand(1, 1, 1, 1)).shape == (1, 2, 1, 1)
    with pytest.raises(ValueError, match="the network needs at least") as refused:
        network.valid_size(2 * network.margin)
    least = int(str(refused.value).split("at least ")[1].split(":")[0])
    assert network.valid_size(least) == least


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_outputs_are_aligned_with_the_input(upsampling: Any) -> None:
    """A spot keeps its position, in the valid centre and in the complete image."""
    network = Autoencoder(1, [1, 1], 3, upsampling)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.zero_()[..., 1, 1] = 1
                part.bias.zero_()  # type: ignore[union-attr]
            elif isinstance(part, nn.ConvTranspose2d):
                part.weight.fill_(1)
                part.bias.zero_()  # type: ignore[union-attr]
    network.eval()
    image = torch.zeros(1, 1, 38, 42)
    image[..., 16:20, 20:24] = 1
    with torch.no_grad():
        whole, centre = network.forward_reflected(image)[0, 0], network(image)[0, 0]
    for found, margin in ((whole, 0), (centre, network.margin)):
        for axis, expected in ((0, 17.5), (1, 21.5)):
            positions = torch.arange(found.shape[axis]) + margin
            position = (found.sum(1 - axis) * positions).sum() / found.sum()
            # Two poolings round to groups of four.
            assert float(position) == pytest.approx(expected, abs=1.5)


def test_edges_are_reflected() -> None:
    network = Autoencoder(1, [4], 3, "transposed").eval()
    image = torch.rand(1, 1, 20, 16)
    margin = network.margin
    extra = -(20 + margin) % network.multiple, -(16 + margin) % network.multiple
    padded = nn.functional.pad(
        image, (margin, margin + extra[1], margin, margin + extra[0]), mode="reflect"
    )
    expected = network(padded)[..., :20, :16]
    assert torch.allclose(network.forward_reflected(image), expected, atol=1e-6)


def test_loss_is_the_squared_error_of_the_centre() -> None:
    module = model(channels=[3], kernel_size=3).eval()
    mixture, targets = torch.randn(2, 2, 8000), torch.randn(2, 1, 2, 8000)
    parts = module.loss(Batch(mixture, targets))
    assert torch.equal(parts["loss"], parts["loss/music"])
    # In the centre, estimates of separation do not depend on the reflected edges.
    estimates = module.network.forward_reflected(module.stft(mixture).abs().flatten(0, 1)[:, None])
    magnitudes = module.stft(targets[:, 0]).abs().flatten(0, 1)[:, None]
    margin = module.network.margin
    height, width = (module.network.valid_size(size) - margin for size in estimates.shape[-2:])
    difference = (estimates - magnitudes)[..., margin:height, margin:width]
    torch.testing.assert_close(parts["loss"], difference.square().mean())


def test_channels_and_sources_are_independent() -> None:
    module = model(channels=[3]).eval()
    mixture = torch.randn(1, 2, 4000)
    both = module(mixture)
    assert torch.allclose(module(mixture[:, 1:])[:, :, 0], both[:, :, 1], atol=1e-6)
    torch.manual_seed(0)
    two = DenoisingAutoencoder(["a", "b"], channels=[3]).eval()
    assert two(mixture).shape == (1, 2, 2, 4000)
    parts = two.loss(Batch(torch.randn(2, 2, 9000), torch.randn(2, 2, 2, 9000)))
    torch.testing.assert_close(parts["loss"], (parts["loss/a"] + parts["loss/b"]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"channels": [1]}, {"channels": [8], "kernel_size": 3}])
def test_training_removes_noise(settings: dict[str, Any]) -> None:
    """Steady noise is removed from an intermittent tone."""
    module = model(**settings)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(8000) / 8000

    def songs() -> Batch:
        gate = (torch.rand(4, 1, 8, generator=generator) > 0.5).float().repeat_interleave(1000, -1)
        clean = gate * torch.sin(2 * torch.pi * 1000 * time)
        return Batch(clean + 0.3 * torch.randn(4, 1, 8000, generator=generator), clean[:, None])

    for _ in range(150):
        optimizer.zero_grad()
        loss = module.loss(songs())["loss"]
        loss.backward()
        optimizer.step()
    module.eval()
    batch = songs()
    with torch.no_grad():
        error = (module(batch.mixture) - batch.targets).square().mean()
    assert error < 0.5 * (batch.mixture[:, None] - batch.targets).square().mean()
