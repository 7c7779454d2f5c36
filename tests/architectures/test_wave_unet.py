"""Wave-U-Net: sizes and counts of the paper, alignment, additivity, loss of the centre."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.architectures.wave_unet import Interpolation, UpBlock, WaveUNet, WaveUNetwork
from lightning_modules.configuration.build import build_model
from lightning_modules.losses import L1, MSE

FOUR = ["vocals", "drums", "bass", "other"]
TWO = ["vocals", "accompaniment"]
# 3 levels: lengths are multiples of 8 plus a remainder, with a context of 238 samples.
SMALL = {"levels": 3, "filters": 4, "segment_seconds": 0.1}
CONTEXT = 8 * (2 * 15 + 5 - 3) - 15 - 5 + 2
# Valid lengths and lengths between them.
LENGTHS = [1, 5, 6, 12, 13, 14, CONTEXT, 1000, 4001]


def small(sources: list[str] = FOUR, **arguments: Any) -> WaveUNet:
    torch.manual_seed(0)
    return WaveUNet(sources, **{**SMALL, **arguments}).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(samples: int, channels: int = 2, examples: int = 2) -> Batch:
    targets = noise(examples, 4, channels, samples)
    return Batch(targets.sum(1), targets)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
def test_147443_input_samples_give_16389_output_samples() -> None:
    network = WaveUNetwork(1, 1, 12, 24, 15, 5, context=True, learned=False)
    assert 147_443 - network.context == 16_389
    assert (16_389 - network.remainder) % network.multiple == 0
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 147_443)).shape == (1, 1, 16_389)


@pytest.mark.slow
def test_parameter_count_equals_its_formula() -> None:
    def m(levels: int, inputs: int, outputs: int) -> int:
        widths = [24 * (level + 1) for level in range(levels + 1)]
        down = sum(
            15 * before * after + after
            for before, after in zip([inputs, *widths], widths, strict=False)
        )
        up = sum(
            5 * (widths[level + 1] + widths[level]) * widths[level] + widths[level]
            for level in range(levels)
        )
        return down + up + (24 + inputs) * outputs + outputs

    assert m(12, 1, 1) == count(build_model("wave_unet/m3").model) == 10_263_002
    model: Any = build_model("wave_unet").model
    assert m(12, 2, 6) == count(model)
    # The bottleneck has 312 filters of 15 samples.
    bottom = model.network.bottom
    assert tuple(bottom[0].weight.shape) == (312, 288, 15)
    assert count(build_model("wave_unet/m5").model) - count(
        build_model("wave_unet/m4").model
    ) == sum(24 * level for level in range(2, 14))


@pytest.mark.parametrize(
    ("name", "sources", "channels", "rate", "inputs", "outputs"),
    [
        ("wave_unet/m1", TWO, 1, 22050, 16_384, 16_384),
        ("wave_unet/m2", TWO, 1, 22050, 16_384, 16_384),
        ("wave_unet/m3", TWO, 1, 22050, 147_443, 16_389),
        ("wave_unet/m4", TWO, 2, 22050, 147_443, 16_389),
        ("wave_unet/m5", TWO, 2, 22050, 147_443, 16_389),
        ("wave_unet", FOUR, 2, 22050, 147_443, 16_389),
        ("wave_unet/44100_hz", FOUR, 2, 44100, 147_443, 16_389),
    ],
)
def test_configs_of_variants(
    name: str, sources: list[str], channels: int, rate: int, inputs: int, outputs: int
) -> None:
    model, data = build_model(name)
    assert isinstance(model, WaveUNet)
    assert model.sources == sources
    assert (model.audio_channels, model.sample_rate) == (channels, rate)
    assert round(data["segment_seconds"] * rate) == inputs
    assert inputs - model.network.context == outputs
    assert (outputs - model.network.remainder) % model.network.multiple == 0
    assert model.output == ("direct" if name.endswith("m1") else "difference")
    learned = name.endswith(("m5", "hz"))
    assert all((block.interpolation.logits is not None) == learned for block in up_blocks(model))
    assert isinstance(model.loss_function, MSE)


def up_blocks(model: WaveUNet) -> list[Any]:
    return list(model.network.decoder)


@pytest.mark.parametrize(
    ("levels", "down", "up"), [(1, 15, 5), (3, 15, 5), (4, 3, 1), (2, 1, 7), (1, 1, 1)]
)
def test_valid_lengths(levels: int, down: int, up: int) -> None:
    network = WaveUNetwork(1, 2, levels, 2, down, up, context=True, learned=True)
    assert network.context % 2 == 0
    for steps in (0, 1, 5):
        samples = network.remainder + steps * network.multiple
        assert network(torch.zeros(1, 1, samples + network.context)).shape == (1, 2, samples)


@pytest.mark.parametrize("context", [False, True])
def test_estimates_add_up_to_the_mixture(context: bool) -> None:
    model = small(context=context).double()
    for samples in LENGTHS:
        mixture = noise(2, 2, samples).double()
        with torch.no_grad():
            error = model(mixture).sum(1) - mixture
        assert error.abs().max() < 1e-15
    loud = 5 * noise(1, 2, 100)  # estimates are not clipped
    with torch.no_grad():
        estimates = small(context=context)(loud)
    assert (estimates.sum(1) - loud).abs().max() < 1e-6


def test_direct_estimates_do_not_add_up_to_the_mixture() -> None:
    mixture = noise(2, 2, 100)
    assert (small(output="direct")(mixture).sum(1) - mixture).abs().max() > 0.01


def zeroed(network: WaveUNetwork) -> WaveUNetwork:
    """Set all weights to zero."""
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def tap(convolution: Any, filter_: int, channel: int) -> None:
    """Make a filter return one of its input channels."""
    weight = convolution.weight.data
    weight[filter_, channel, weight.shape[-1] // 2] = 1


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_skip_connections_are_aligned(context: bool, level: int) -> None:
    """A ramp through the skip connection of a level comes out unshifted."""
    model = small(["vocals"], audio_channels=1, context=context, output="direct")
    network: Any = zeroed(model.network)
    for depth in range(level + 1):
        tap(network.encoder[depth][0], 0, 0)
        block = network.decoder[-1 - depth]
        # The skip connection's channels follow those of the level below.
        below = block.convolution[0].in_channels - block.convolution[0].out_channels
        tap(block.convolution[0], 0, below if depth == level else 0)
    tap(network.output[0], 0, 0)
    check_ramp(model)


@pytest.mark.parametrize("upsampling", ["linear", "learned"])
@pytest.mark.parametrize("context", [False, True])
def test_path_through_the_bottleneck_is_aligned(context: bool, upsampling: str) -> None:
    model = small(
        ["vocals"], audio_channels=1, context=context, output="direct", upsampling=upsampling
    )
    network: Any = zeroed(model.network)
    for block in [*network.encoder, network.bottom]:
        tap(block[0], 0, 0)
    for block in network.decoder:
        tap(block.convolution[0], 0, 0)
    tap(network.output[0], 0, 0)
    check_ramp(model)


@pytest.mark.parametrize("context", [False, True])
def test_input_at_the_output_layer_is_aligned(context: bool) -> None:
    model = small(["vocals"], audio_channels=1, context=context, output="direct")
    network: Any = zeroed(model.network)
    tap(network.output[0], 0, network.output[0].in_channels - 1)
    mixture = noise(1, 1, 333)
    assert torch.allclose(model(mixture)[:, 0], mixture.tanh(), atol=1e-6)


def check_ramp(model: WaveUNet) -> None:
    """Linear interpolation is exact on a ramp, except near the edges."""
    ramp = torch.linspace(0.1, 0.9, 800)[None, None]
    with torch.no_grad():
        estimate = model(ramp)[0, 0, 0]
    inner = slice(200, 600)
    assert torch.allclose(estimate[inner], ramp[0, 0, inner].tanh(), atol=1e-6)


def test_interpolated_samples_are_weighted_means_of_neighbours() -> None:
    x = torch.tensor([[[0.0, 2.0, 6.0], [1.0, -1.0, 1.0]]])
    expected = torch.tensor([[[0.0, 1.0, 2.0, 4.0, 6.0, 6.0], [1.0, 0.0, -1.0, 0.0, 1.0, 1.0]]])
    assert torch.equal(Interpolation(2, learned=False)(x), expected)
    learned = Interpolation(2, learned=True)
    assert torch.equal(learned(x), expected), "it is initialised to linear interpolation"
    assert learned.logits is not None
    learned.logits.data[0] = torch.log(torch.tensor(3.0))  # weights 3/4 and 1/4
    assert torch.allclose(learned(x)[0, 0], torch.tensor([0.0, 0.5, 2.0, 3.0, 6.0, 6.0]))
    assert torch.allclose(learned(x)[0, 1], expected[0, 1])


def test_repeated_last_sample_is_dropped_with_context() -> None:
    block = UpBlock(2, 3, 1, context=True, learned=False)
    assert block(torch.zeros(1, 2, 5), torch.zeros(1, 3, 11)).shape == (1, 3, 9)
    block = UpBlock(2, 3, 1, context=False, learned=False)
    assert block(torch.zeros(1, 2, 5), torch.zeros(1, 3, 10)).shape == (1, 3, 10)


def test_padding_affects_the_edges_only() -> None:
    model = small()
    mixture = noise(1, 2, 2000)
    with torch.no_grad():
        # The offset must be the same modulo 8, or decimation keeps other samples.
        padded = model(mixture)
        centre = model.separate_centre(mixture[..., 1 : 1 + CONTEXT + 5 + 8 * 100])
    found = padded[..., 1 + CONTEXT // 2 : 1 + CONTEXT // 2 + 805]
    assert torch.allclose(found, centre, atol=1e-6)


def test_mixtures_are_reflect_padded_and_short_ones_zero_padded() -> None:
    model = small()
    mixture = noise(1, 2, 805)
    side = CONTEXT // 2
    mirrored = torch.cat(
        [mixture[..., 1 : side + 1].flip(-1), mixture, mixture[..., -side - 1 : -1].flip(-1)], -1
    )
    with torch.no_grad():
        assert torch.equal(model(mixture), model.separate_centre(mirrored))
        short = mixture[..., :100]
        zeros = torch.nn.functional.pad(short, (side, side + 1))  # 101 = 5 + 12 * 8
        assert torch.equal(model(short), model.separate_centre(zeros)[..., :100])


def test_loss_is_that_of_the_centre() -> None:
    model = small()
    samples = CONTEXT + 5 + 8 * 50 + 3  # the crop is 3 samples too long, 1 at the start
    examples = batch(samples)
    with torch.no_grad():
        found = model.loss(examples)
        first = 1 + CONTEXT // 2
        centre = slice(first, first + 405)
        estimates = model(examples.mixture)[..., centre]
        errors = (estimates - examples.targets[..., centre]).square().mean((0, 2, 3))
    assert torch.allclose(found["loss"], errors.mean())
    assert torch.allclose(found["loss/bass"], errors[2])
    # Targets outside the centre have no influence, the mixture there does.
    edges = examples.targets.clone()
    edges[..., :first] = edges[..., first + 405 :] = 7
    assert torch.equal(model.loss(Batch(examples.mixture, edges))["loss"], found["loss"])
    other = examples.mixture.clone()
    other[..., :first] = 0
    assert not torch.equal(model.loss(Batch(other, examples.targets))["loss"], found["loss"])


@pytest.mark.parametrize("context", [False, True])
def test_loss_of_short_crops_includes_all_samples(context: bool) -> None:
    model = small(context=context, loss_function=L1())
    for samples in (1, 7, CONTEXT, CONTEXT + 5, CONTEXT + 12, *([] if context else [1003])):
        examples = batch(samples, examples=1)
        with torch.no_grad():
            found = model.loss(examples)["loss"]
            expected = (model(examples.mixture) - examples.targets).abs().mean()
        assert torch.allclose(found, expected)


def test_estimates_add_up_to_the_mixture_under_autocast() -> None:
    model = small()
    mixture = noise(1, 2, 1000)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        estimates = model(mixture)
    assert (estimates.sum(1) - mixture).abs().max() < 1e-6


@pytest.mark.parametrize("context", [False, True])
def test_estimates_of_chunks_add_up_to_the_mixture(context: bool) -> None:
    model = small(context=context)
    mixture = noise(2, 20_001)
    assert (model.separate(mixture).sum(0) - mixture).abs().max() < 1e-6


@pytest.mark.slow
def test_one_graph_serves_several_lengths() -> None:
    network = small(levels=1, upsampling="learned").network
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for steps in (100, 130):
        waveform = noise(1, 2, network.context + network.remainder + steps * network.multiple)
        assert torch.equal(compiled(waveform), network(waveform))
