"""MMDenseNet and MMDenseLSTM: the papers' tables, dense blocks, bands, activation checkpointing."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.mmdensenet import (
    DenseBlock,
    LSTMBlock,
    MMDenseNet,
    MMDenseNetwork,
    MultiScaleNetwork,
)
from lightning_modules.base.description import KEY, describe
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration.build import build_model

SOURCES = ["vocals", "accompaniment"]


def tiny(**changes: Any) -> dict[str, Any]:
    """The class's small settings with changes, e.g. ``full={"filters": 2}``."""
    settings: dict[str, Any] = copy.deepcopy(dict(MMDenseNet.tiny))
    for name, change in changes.items():
        if name in ("full", "final"):
            settings[name] |= change
        elif name == "band":
            settings["bands"][0] |= change
        else:
            settings[name] = change
    return settings


def small(**changes: Any) -> MMDenseNet:
    torch.manual_seed(0)
    return MMDenseNet(SOURCES, **tiny(**changes))


def without_lstm() -> dict[str, Any]:
    return {"band": {"lstm_units": [0, 0, 0]}, "full": {"lstm_units": [0] * 5}}


def network_of(model: MMDenseNet) -> MMDenseNetwork:
    network = model.networks["vocals"]
    assert isinstance(network, MMDenseNetwork)
    return network


def batch(samples: int = 20_000, examples: int = 2) -> Batch:
    targets = 0.1 * torch.randn(examples, 2, 2, samples, generator=torch.manual_seed(1))
    return Batch(targets.sum(1), targets)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multi_scale(
    kernel: int, growth: list[int], layers: list[int], units: dict[int, int], bins: int
) -> int:
    """Parameter count of a band's network; ``bins`` is the padded number of bins."""
    total, width, depth = kernel * 2 * 32, 32, len(growth) // 2
    skips: list[int] = []
    for number, (maps, deep) in enumerate(zip(growth, layers, strict=True)):
        if number > depth:  # batch norm and transposed convolution, then the skip
            total += 2 * width + 4 * width * width
            width += skips.pop()
        for layer in range(deep):  # batch norm and convolution
            inputs = width + layer * maps
            total += 2 * inputs + kernel * inputs * maps
        width = maps
        if number in units:  # one map, two directions of gates with two biases, back to bins
            scaled, each = bins >> (depth - abs(depth - number)), units[number] // 2
            total += maps + 1 + 2 * 4 * each * (scaled + each + 2) + (2 * each + 1) * scaled
            width += 1
        if number < depth:
            skips.append(width)
    return total


def final(inputs: int, growth: int, layers: int, outputs: int = 2) -> int:
    block = sum(
        2 * width + 9 * width * growth for width in range(inputs, inputs + layers * growth, growth)
    )
    return block + 2 * growth + 2 * growth * outputs + outputs


@pytest.mark.slow
def test_parameter_counts_equal_their_formulas() -> None:
    low = multi_scale(12, [14, *[16] * 6], [4] * 7, {}, 512)
    high = multi_scale(9, [10] * 7, [3] * 7, {}, 520)
    full = multi_scale(12, [6] * 7, [2, 2, 2, 4, 2, 2, 2], {}, 1032)
    net = low + high + (2 * 10 + 10 * 16) + full + final(16 + 6, 4, 2)
    assert net == 337_398
    network = network_of(build_model("mmdense_net").model)  # type: ignore[arg-type]
    assert count(network) == net + 4 * 1025 == 341_498

    low = multi_scale(9, [14] * 7, [5] * 7, {3: 128, 5: 128}, 384)
    middle = multi_scale(9, [4] * 7, [4] * 7, {3: 32}, 648)
    high = multi_scale(9, [2] * 5, [1] * 5, {2: 8}, 468)
    full = multi_scale(9, [7] * 9, [3, 3, 4, 5, 5, 5, 4, 3, 3], {3: 128, 7: 128}, 1488)
    matched = 2 * 4 + 4 * 14 + 2 * 2 + 2 * 14
    lstm = low + middle + high + matched + full + final(14 + 7, 12, 3)
    assert lstm == 1_221_432
    network = network_of(build_model("mmdense_lstm").model)  # type: ignore[arg-type]
    assert count(network) == lstm + 4 * 1487 == 1_227_380


@pytest.mark.slow
def test_band_edges_are_the_papers() -> None:
    net, lstm = build_model("mmdense_net").model, build_model("mmdense_lstm").model
    assert isinstance(net, MMDenseNet)
    assert isinstance(lstm, MMDenseNet)
    assert network_of(net).sizes == [512, 513]
    assert (net.n_fft, net.hop_length) == (2048, 1024)
    assert network_of(lstm).sizes == [381, 641, 465]
    assert (lstm.n_fft, lstm.hop_length) == (4096, 1024)
    # The last bin of a band lies below its edge, the next one does not.
    for end, frequency_hz in ((381, 4100), (381 + 641, 11_000), (1487, 16_000)):
        assert (end - 1) * 44_100 / 4096 < frequency_hz <= end * 44_100 / 4096
    assert net.bins_below(22_050) == net.bins_below(30_000) == 1025


@pytest.mark.slow
def test_lstms_are_at_the_scales_of_the_papers_table() -> None:
    """1/8 and 1/2 on the way up in the lowest band, 1/8 in the next, 1/4 in the highest."""
    model = build_model("mmdense_lstm").model
    assert isinstance(model, MMDenseNet)
    network = network_of(model)
    sizes = [
        [
            (name, block.lstm.lstm.input_size, 2 * block.lstm.lstm.hidden_size)
            for name, block in part.named_modules()
            if isinstance(block, DenseBlock) and block.lstm is not None
        ]
        for part in (*network.bands, network.full)
    ]
    assert sizes == [
        [("up.1", 192, 128), ("bottom", 48, 128)],
        [("bottom", 81, 32)],
        [("bottom", 117, 8)],
        [("down.3", 186, 128), ("up.2", 744, 128)],
    ]


def test_blocks_have_the_shapes_of_the_papers_table() -> None:
    """MMDenseNet's low band: 512 bins and 128 frames."""
    low = build_model("mmdense_net").model.hparams["bands"][0]
    with torch.device("meta"):
        network = MultiScaleNetwork(2, 512, low, 1.0, False)
        shapes: list[tuple[int, ...]] = []
        for block in (*network.down, network.bottom, *network.rise, *network.up):
            block.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
        assert network(torch.zeros(1, 2, 512, 128)).shape == (1, 16, 512, 128)
    assert shapes == [
        (14, 512, 128),
        (16, 256, 64),
        (16, 128, 32),
        (16, 64, 16),
        (16, 128, 32),
        (16, 128, 32),
        (16, 256, 64),
        (16, 256, 64),
        (16, 512, 128),
        (16, 512, 128),
    ]


def test_dense_block_equals_its_definition() -> None:
    torch.manual_seed(0)
    block = DenseBlock(3, {"kernel_size": [3, 3], "growth": 2, "layers": 3}, checkpointed=False)
    x = torch.randn(2, 3, 8, 6)
    maps, y = x, torch.empty(0)
    for layer in block.layers:
        assert isinstance(layer, nn.Sequential)
        mean, variance = (
            maps.mean((0, 2, 3), keepdim=True),
            maps.var((0, 2, 3), False, keepdim=True),
        )
        weight = layer[2].weight
        assert isinstance(weight, Tensor)
        normed = ((maps - mean) / (variance + 1e-5).sqrt()).clamp_min(0)
        y = nn.functional.conv2d(normed, weight, padding=1)
        maps = torch.cat([maps, y], 1)
    assert torch.allclose(block(x), y, atol=1e-5)
    assert block.outputs == y.shape[1] == 2


@pytest.mark.parametrize("kernel_size", [(4, 3), (3, 4), (2, 1), (1, 1), (3, 3)])
def test_convolutions_keep_the_size(kernel_size: tuple[int, int]) -> None:
    block = DenseBlock(
        1, {"kernel_size": list(kernel_size), "growth": 1, "layers": 2}, checkpointed=False
    )
    assert block(torch.randn(2, 1, 7, 5)).shape == (2, 1, 7, 5)
    # An even kernel reads one more value at the top and on the right.
    convolution = block.layers[0][2]  # type: ignore[index]
    impulse = torch.zeros(1, 1, 11, 11)
    impulse[..., 5, 5] = 1
    reached = convolution(impulse)[0, 0].nonzero().tolist()
    rows, columns = {row for row, _ in reached}, {column for _, column in reached}
    height, width = kernel_size
    assert (min(rows), max(rows)) == (5 - height // 2, 5 + (height - 1) // 2)
    assert (min(columns), max(columns)) == (5 - width // 2, 5 + (width - 1) // 2)


def test_lstm_block_equals_its_definition() -> None:
    torch.manual_seed(0)
    block = LSTMBlock(3, 8, 4)
    x = torch.randn(2, 3, 8, 6)
    one = nn.functional.conv2d(x, block.squeeze.weight, block.squeeze.bias)[:, 0]  # (B, bins, N)
    for example in range(2):
        states, _ = block.lstm(one[example].T[None])  # (1, N, units)
        expected = states[0] @ block.linear.weight.T + block.linear.bias  # (N, bins)
        assert torch.allclose(block(x)[example, 0], expected.T, atol=1e-6)
    assert block.lstm.bidirectional
    assert block.lstm.hidden_size == 2
    dense = DenseBlock(3, {"kernel_size": [3, 3], "growth": 2, "layers": 1}, False, block)
    assert dense.outputs == 3


def test_lstm_adds_a_map_to_its_block() -> None:
    torch.manual_seed(0)
    block = DenseBlock(
        3, {"kernel_size": [3, 3], "growth": 2, "layers": 1}, False, LSTMBlock(2, 8, 4)
    ).eval()
    x = torch.randn(2, 3, 8, 6)
    y = block(x)
    assert block.lstm is not None
    assert y.shape == (2, 3, 8, 6)
    assert torch.equal(y[:, 2:], block.lstm(y[:, :2]))


def test_skip_connections_join_blocks_of_the_same_size() -> None:
    network = network_of(small()).full.eval()
    image = torch.rand(1, 2, 186, 20)
    plain = network(image)
    for block in network.down:
        handle = block.register_forward_hook(lambda _m, _i, out: out + 1)
        assert not torch.equal(network(image), plain)
        handle.remove()
    # With all coarser scales cut off, the output still depends on the finest skip connection.
    network.rise[-1].register_forward_hook(lambda _m, _i, out: out * 0)
    cut = network(image)
    assert not torch.equal(network(image.flip(3)), cut)
    network.down[0].register_forward_hook(lambda _m, _i, out: out * 0)
    assert torch.equal(network(image.flip(3)), network(image))


def test_compression_reduces_maps_of_upsamplings() -> None:
    kept = [
        [rise[1].out_channels for rise in network_of(small(compression=share)).full.rise]  # type: ignore[index]
        for share in (1.0, 0.5, 0.1)
    ]
    assert kept == [[2, 3], [1, 2], [1, 1]]


def test_networks_read_their_bands() -> None:
    network = network_of(small()).eval()
    read: list[Tensor] = []
    for part in (*network.bands, network.full):
        part.register_forward_hook(lambda _m, inputs, _out: read.append(inputs[0]))
    magnitudes = torch.rand(2, 2, 257, 9)
    network(magnitudes)
    assert network.sizes == [47, 139]  # 4 and 16 kHz of 86 Hz bins
    assert torch.equal(read[0], magnitudes[:, :, :47])
    assert torch.equal(read[1], magnitudes[:, :, 47:186])
    assert torch.equal(read[2], magnitudes[:, :, :186])


def test_outputs_of_bands_are_stacked_and_concatenated_with_the_full_spectrum() -> None:
    network = network_of(small()).eval()
    for number, part in enumerate((*network.match, network.full)):
        part.register_forward_hook(
            lambda _m, _i, out, number=number: torch.full_like(out, number + 1)
        )
    joined: list[Tensor] = []
    network.final.register_forward_hook(lambda _m, inputs, _out: joined.append(inputs[0]))
    network(torch.rand(1, 2, 257, 9))
    (maps,) = joined
    assert maps.shape == (1, 4 + 2, 186, 9)  # those of the widest band, and of the full spectrum
    assert (maps[:, :4, :47] == 1).all()
    assert (maps[:, :4, 47:] == 2).all()
    assert (maps[:, 4:] == 3).all()


@pytest.mark.slow
def test_estimates_are_non_negative_and_zero_above_the_bands() -> None:
    network = network_of(small()).train()
    estimates = network(torch.rand(2, 2, 257, 9))
    assert estimates.shape == (2, 2, 257, 9)
    assert (estimates[:, :, 186:] == 0).all()
    assert estimates.min() == 0 < estimates[:, :, :186].mean()


def test_loss_is_the_squared_error_of_magnitudes() -> None:
    model, data = small(), batch()
    losses = model.loss(data)
    again = small()  # the first pass has updated the running statistics
    mixture, targets = (again.whole_frames(waveform).abs() for waveform in data)
    for number, name in enumerate(SOURCES):
        error = (again.networks[name](mixture) - targets[:, number]).square().mean()
        assert torch.isclose(losses[f"loss/{name}"], error)
    assert torch.isclose(losses["loss"], losses["loss/vocals"] + losses["loss/accompaniment"])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def test_initial_offsets_and_scales_standardise_the_input() -> None:
    model = small()
    frames = torch.rand(1, 2, 257, 100) * torch.linspace(1, 50, 257)[:, None] + 3
    mean, deviation = frames.mean((0, 1, 3)), frames.std((0, 1, 3))
    model.standardise(mean, deviation)
    network = network_of(model).eval()
    read: list[Tensor] = []
    network.full.register_forward_hook(lambda _m, inputs, _out: read.append(inputs[0]))
    estimates = network(frames)
    (standard,) = read
    assert standard.mean((0, 1, 3)).abs().max() < 1e-4
    assert (standard.std((0, 1, 3)) - 1).abs().max() < 1e-4
    # The output has the level of the input in each bin.
    louder = estimates[:, :, 140:180].mean() / estimates[:, :, 10:50].mean()
    assert 2 < louder < 8


@pytest.mark.slow
def test_statistics_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, calls = small(), []

    def measured(*arguments: Any) -> tuple[Tensor, Tensor]:
        calls.append(arguments)
        return torch.arange(257.0), torch.arange(1.0, 258.0)

    monkeypatch.setattr("lightning_modules.base.standardised_input.input_statistics", measured)
    monkeypatch.setattr(MMDenseNet, "trainer", Trainer())
    model.on_fit_start()
    model.on_fit_start()
    assert len(calls) == 1
    for network in model.networks.values():
        assert isinstance(network, MMDenseNetwork)
        assert torch.equal(network.input_mean[:, 0], -torch.arange(186.0))
        assert torch.equal(network.input_scale[:, 0], 1 / torch.arange(1.0, 187.0))
        assert torch.equal(network.output_scale[:, 0], torch.arange(1.0, 187.0))
    path = tmp_path / "a.ckpt"
    torch.save({KEY: describe(model), "state_dict": model.state_dict()}, path)
    again = load_separator(path)
    assert isinstance(again, MMDenseNet)
    again.on_fit_start()
    assert len(calls) == 1
    mixture = batch().mixture[0]
    assert torch.equal(again.separate(mixture), model.eval().separate(mixture))
    # The statistics are those of the channels' mean magnitudes.
    spectrum = torch.randn(2, 257, 5, dtype=torch.complex64)
    assert torch.allclose(model.normalised_magnitudes(spectrum), spectrum.abs().mean(0))


class Trainer:
    datamodule: MUSDBDataModule | None = None


def saved_bytes(network: nn.Module, magnitudes: Tensor) -> tuple[int, Tensor]:
    """Size of the tensors saved for the backward pass, and the output."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output: Tensor = network(magnitudes)
    own = {parameter.data_ptr() for parameter in network.parameters()}
    return sum(size for address, size in kept.items() if address not in own), output


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_preserves_gradients_and_running_statistics(training: bool) -> None:
    magnitudes, saved = torch.rand(2, 2, 257, 20), []
    plain, checkpointed = (
        network_of(small(checkpoint_activations=wanted)).train(training) for wanted in (False, True)
    )
    for network in (plain, checkpointed):
        size, output = saved_bytes(network, magnitudes)
        output.square().sum().backward()
        saved.append(size)
    pairs = zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True)
    for (name, one), (_, other) in pairs:
        assert torch.equal(_gradient(one), _gradient(other)), name
    buffers = zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True)
    for (name, before), (_, after) in buffers:
        assert torch.equal(before, after), name
    assert max(int(value) for name, value in plain.named_buffers() if "tracked" in name) == training
    assert saved[1] < 0.7 * saved[0]


def test_each_step_updates_the_running_statistics_once() -> None:
    """In place: the tensors are the same after the backward pass."""
    model = small(checkpoint_activations=True)
    before = {name: buffer.data_ptr() for name, buffer in model.named_buffers()}
    for steps in (1, 2):
        model.loss(batch())["loss"].backward()
        counts = {int(value) for name, value in model.named_buffers() if "tracked" in name}
        assert counts == {steps}
    assert before == {name: buffer.data_ptr() for name, buffer in model.named_buffers()}


def test_checkpointed_models_have_the_same_weights() -> None:
    assert "checkpoint_activations" in MMDenseNet.changeable_hparams
    plain, checkpointed = small().eval(), small(checkpoint_activations=True).eval()
    checkpointed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(batch().mixture), checkpointed(batch().mixture))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_network_without_lstms_is_one_graph(checkpoint_activations: bool) -> None:
    changes = {**without_lstm(), "checkpoint_activations": checkpoint_activations}
    plain, other = network_of(small(**changes)), network_of(small(**changes))
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    magnitudes = torch.rand(2, 2, 257, 9)
    for network in (plain, compiled):
        network(magnitudes).square().sum().backward()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.allclose(_gradient(one), _gradient(two), rtol=1e-4, atol=1e-5)
    for before, after in zip(plain.buffers(), other.buffers(), strict=True):
        assert torch.allclose(before, after)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_network_with_an_lstm_gives_the_same_output() -> None:
    """Bands of different heights make the compiler use a dynamic height."""
    full = {"growth": [2, 2, 2], "layers": [1, 1, 1], "lstm_units": [0, 2, 0]}
    network = network_of(small(band={"lstm_units": [0, 0, 0]}, full=full)).eval()
    magnitudes = torch.rand(2, 2, 257, 9)
    with torch.no_grad():
        plain = network(magnitudes)
        network.compile()
        assert torch.allclose(network(magnitudes), plain, atol=1e-5)
