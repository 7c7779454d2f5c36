"""Demucs: parity with the package's first versions, resampling, silence, recipes.

Parity with the package's current network is tested in ``tests/reference``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from datamodules.batches import Batch
from lightning_modules.architectures.demucs import Demucs, DemucsNetwork, Downsampling, Upsampling
from lightning_modules.configuration.build import build_model
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]
SMALL = {"channels": 4, "depth": 3, "segment_seconds": 0.5}
VARIANTS = [
    {},
    {"resample": True},
    {"padded": True},
    {"bidirectional": False, "lstm_layers": 1},
    {"decoder_per_source": True},
]


def small(sources: list[str] = FOUR, **arguments: Any) -> Demucs:
    torch.manual_seed(0)
    return Demucs(sources, **{**SMALL, **arguments}).eval()


@pytest.mark.parametrize(
    ("channels", "resample", "parameters"), [(100, False, 648_548_208), (64, True, 265_679_496)]
)
def test_parameter_count_is_the_packages(channels: int, resample: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = DemucsNetwork(FOUR, 2, channels, 6, 2, True, False, resample, False)
    assert sum(p.numel() for p in network.parameters()) == parameters


def by_formula(resample: bool) -> DemucsNetwork:
    """A network in double precision whose weights are sines of their indices."""
    network = DemucsNetwork(["a", "b"], 2, 4, 3, 2, True, False, resample, False)
    with torch.no_grad():
        for number, (_, weights) in enumerate(sorted(network.named_parameters())):
            indices = torch.arange(weights.numel(), dtype=torch.float64)
            weights.copy_((indices * (number + 1)).sin().mul(0.3).reshape(weights.shape))
    return network.double().eval()


# Samples 0, 1500 and 3000 of each source and channel, as the package's first version and its
# second (commits 7cf5c60 and 4fff07b) compute them from these weights; the second divides its
# input by 1.00001, which is compensated here.
FIRST = [
    [[-0.0191718247, 0.2423188006, -0.0227781687], [-0.1482945110, -0.3129221245, -0.4622467566]],
    [[-0.0382270919, -0.2403100485, 0.0786723475], [0.1611074263, 0.3986588812, 0.4328752366]],
]
SECOND = [
    [[-0.1345508702, 0.2322980876, -0.1256108217], [-0.2329012548, -0.4150464430, -0.2051626259]],
    [[0.1076832312, -0.1934366534, 0.0887333958], [0.1930608451, 0.4838684226, 0.1721604704]],
]


@pytest.mark.parametrize(("resample", "expected"), [(False, FIRST), (True, SECOND)])
def test_estimates_equal_the_packages(resample: bool, expected: list[list[list[float]]]) -> None:
    mixture = torch.arange(2 * 3001, dtype=torch.float64).view(1, 2, -1).mul(0.1).sin()
    with torch.no_grad():
        estimates = by_formula(resample)(mixture)
    found = estimates[0, :, :, [0, 1500, 3000]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-7)


@pytest.mark.parametrize(
    ("resample", "padded", "lengths"),
    [
        # Those of the package's first, second and third version.
        (False, False, {5000: 17748, 44100: 58708, 441000: 451924}),
        (True, False, {5000: 10922, 44100: 49834, 441000: 447146}),
        (False, True, {1: 9556, 5000: 9556, 44100: 46420, 441000: 443732}),
    ],
)
def test_valid_lengths(resample: bool, padded: bool, lengths: dict[int, int]) -> None:
    with torch.device("meta"):
        network = DemucsNetwork(FOUR, 2, 1, 6, 1, False, padded, resample, False)
    assert {length: network.valid_length(length) for length in lengths} == lengths


def test_initial_weights_are_rescaled() -> None:
    """Their deviation s becomes sqrt(0.1 s); biases are scaled by the same factor."""
    torch.manual_seed(0)
    ours = small(["all"]).network
    torch.manual_seed(0)
    theirs = nn.Conv1d(2, 4, 8, 4)
    weight, bias = (ours.get_parameter(f"encoder.0.0.{name}") for name in ("weight", "bias"))
    factor = (0.1 / theirs.weight.std()).sqrt()
    assert torch.allclose(weight, theirs.weight * factor)
    assert theirs.bias is not None
    assert torch.allclose(bias, theirs.bias * factor)
    assert weight.std().item() == pytest.approx((0.1 * theirs.weight.std().item()) ** 0.5)


def test_decoders_of_sources_are_independent() -> None:
    """They share encoder and LSTM only."""
    model = small(["vocals", "other"], decoder_per_source=True)
    mixture = torch.randn(1, 2, 5000)
    with torch.no_grad():
        before = model(mixture)
        for weights in model.network.get_submodule("decoder.vocals").parameters():
            weights.mul_(1.1)
        after = model(mixture)
        assert torch.equal(before[:, 1], after[:, 1])
        assert not torch.equal(before[:, 0], after[:, 0])
        model.network.get_parameter("encoder.0.2.bias").mul_(1.1)
        assert not (model(mixture) == after).all((0, 2, 3)).any()


def test_decoders_with_the_weights_of_one_decoder_give_its_estimates() -> None:
    together, apart = small(["a", "b"]), small(["a", "b"], decoder_per_source=True)
    state = together.network.state_dict()
    split = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    for number, name in enumerate(["a", "b"]):
        for key, value in state.items():
            if key.startswith("decoder."):
                mine = value.chunk(2, 1 if key.endswith("weight") else 0)[number]
                last = key.startswith("decoder.2.2.")
                split[key.replace("decoder.", f"decoder.{name}.", 1)] = mine if last else value
    apart.network.load_state_dict(split)
    mixture = torch.randn(1, 2, 5000)
    with torch.no_grad():
        assert torch.allclose(together(mixture), apart(mixture), atol=1e-6)


def test_one_unidirectional_lstm_has_no_dense_layer() -> None:
    lstm = small(bidirectional=False, lstm_layers=1).network.lstm
    assert {name: tuple(weights.shape) for name, weights in lstm.named_parameters()} == {
        "lstm.weight_ih_l0": (64, 16),
        "lstm.weight_hh_l0": (64, 16),
        "lstm.bias_ih_l0": (64,),
        "lstm.bias_hh_l0": (64,),
    }


def test_resampling_preserves_signals_below_both_nyquist_frequencies() -> None:
    time = torch.arange(2000, dtype=torch.float64)
    low = torch.stack([torch.ones(2000).double(), torch.sin(0.3 * time)])[None]
    high = Upsampling().double()(low)
    assert high.shape == (1, 2, 4000)
    assert torch.allclose(high[0, 0], torch.ones(4000).double(), atol=1e-6)
    inside = slice(200, -200)
    expected = torch.sin(0.15 * torch.arange(4000, dtype=torch.float64))
    assert torch.allclose(high[0, 1, inside], expected[inside], atol=1e-3)
    assert torch.allclose(Downsampling().double()(high)[..., inside], low[..., inside], atol=1e-3)


def test_downsampling_removes_frequencies_that_would_alias() -> None:
    high = torch.sin(2.5 * torch.arange(4000, dtype=torch.float64))[None, None]
    assert Downsampling().double()(high)[..., 100:-100].abs().max() < 1e-3


def test_resampling_filters_are_not_saved_and_stay_float32() -> None:
    model = small(resample=True)
    assert not [name for name in model.state_dict() if "kernel" in name or "sampling" in name]
    with torch.autocast("cpu", torch.bfloat16):
        assert Upsampling()(torch.randn(1, 1, 100).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("settings", VARIANTS)
def test_silence_gives_silence_and_finite_gradients(settings: dict[str, Any]) -> None:
    model = small(**settings)
    batch = Batch(torch.zeros(2, 2, 2000), torch.zeros(2, 4, 2, 2000))
    assert model(batch.mixture).abs().max() == 0
    batch.mixture[1] = torch.randn(2, 2000)
    model.loss(batch)["loss"].backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name


def test_estimates_follow_level_and_offset_of_the_mixture() -> None:
    model = small()
    mixture = torch.randn(1, 2, 5000)
    with torch.no_grad():
        estimates = model(mixture)
        assert torch.allclose(model(8 * mixture), 8 * estimates, rtol=1e-3, atol=1e-4)
        assert torch.allclose(model(mixture + 1), estimates + 1, rtol=1e-3, atol=1e-4)


def test_recipes_are_the_published_ones() -> None:
    """The package's first two versions, and Goel et al.'s Table 13 and section 5."""
    one_lstm = {"lstm_layers": 1, "bidirectional": False}
    l1 = {"loss_function": "lightning_modules.losses.L1"}
    goel = {"channels": 64, "depth": 3, "loss_function": "lightning_modules.losses.MSE"}
    for name, model, batch, seconds, epochs in (
        ("demucs", {"channels": 100, "depth": 6, "lstm_layers": 2, **l1}, 64, 10.0, 2400),
        ("demucs/2020", {"channels": 64, "depth": 6, "resample": True}, 64, 10.0, 3600),
        ("demucs/light", {**goel, **one_lstm}, 4, 20_000 / 44100, 2),
        ("demucs/multi_decoder", {**goel, "decoder_per_source": True}, 4, 10.0, 2400),
    ):
        recipe = settings_of(name)
        assert recipe["model"].items() >= model.items()
        assert recipe["model"]["optimizer"]["init_args"] == {"lr": 3e-4}
        assert recipe["data"]["batch_size"] == batch
        assert round(recipe["data"]["segment_seconds"] * 44100) == round(seconds * 44100)
        assert recipe["trainer"]["max_epochs"] == epochs


def test_parameter_count_of_the_light_network() -> None:
    levels = [(2, 64), (64, 128), (128, 256)]
    encoder = sum(8 * a * b + b + 2 * b * b + 2 * b for a, b in levels)
    lstm = 4 * (256 * 256 + 256 * 256 + 2 * 256)
    decoder = sum(3 * b * 2 * b + 2 * b + 8 * a * b + a for a, b in [(8, 64), *levels[1:]])
    model = build_model("demucs/light").model
    assert sum(p.numel() for p in model.parameters()) == encoder + lstm + decoder == 1_877_384
