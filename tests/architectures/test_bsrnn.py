"""BSRNN: bands, counts, and the network against its formulas."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.bsrnn import BSRNN, BSRNNNetwork, scheme_edges
from lightning_modules.inference.overlap_add import OverlapAdd
from lightning_modules.layers.bands import bands_between
from lightning_modules.losses import AlphaWeighted, SpectralL1
from tests.helpers.configs import settings_of

V7 = [
    *[5, 5, 4, 5, 5, 4, 5, 5, 4, 5], *[12, 11, 12, 11, 12, 12, 11, 12, 11, 12, 12, 11],
    *[23, 24, 23, 23, 23, 24, 23, 23], *[46, 47, 46, 47, 46, 47, 46, 47], 92, 93, 96,
]  # fmt: skip
SMALL = {
    "features": 8, "blocks": 1, "hidden_size": 6, "mask_expansion": 2, "n_fft": 64,
    "hop_length": 32, "bands": [4000, 9000, 11000, 17000],
}  # fmt: skip


def small(sources: list[str] | None = None, **arguments: Any) -> BSRNN:
    torch.manual_seed(0)
    return BSRNN(sources or ["vocals"], **{**SMALL, **arguments})


def network_of(model: BSRNN, source: str = "vocals") -> BSRNNNetwork:
    network = model.networks[source]
    assert isinstance(network, BSRNNNetwork)
    return network


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def example(sources: int = 1, samples: int = 1000) -> Batch:
    targets = noise(2, sources, 2, samples)
    return Batch(targets.sum(1), targets)


# ------------------------------------------------------------------ bands


def widths(scheme: str) -> list[int]:
    return [len(band) for band in bands_between(scheme_edges(scheme), 2048, 44100)]


def test_v7_has_the_published_widths() -> None:
    assert widths("v7") == V7


@pytest.mark.parametrize(
    ("scheme", "counts_hz", "highest"),
    [
        ("v7", {100: 10, 250: 12, 500: 8, 1000: 8, 2000: 2}, 20000),
        ("bass", {50: 10, 100: 5, 500: 6, 1000: 4, 2000: 4}, 16000),
        ("drums", {50: 20, 100: 10, 250: 8, 500: 8, 1000: 8}, 16000),
    ],
)
def test_schemes_have_the_published_bands(
    scheme: str, counts_hz: dict[int, int], highest: int
) -> None:
    edges = scheme_edges(scheme)
    steps = [int(high - low) for low, high in zip([0.0, *edges], edges, strict=False)]
    assert {width: len(list(run)) for width, run in groupby(steps)} == counts_hz
    assert edges[-1] == highest
    assert len(widths(scheme)) == len(edges) + 1  # none is empty, and one is above
    assert sum(widths(scheme)) == 1025


def numbers_of_bands(**arguments: Any) -> dict[str, int]:
    sources = ["bass", "piano", "vocals", "drums"]
    model = small(sources, n_fft=2048, hop_length=1024, **{"bands": None, **arguments})
    return {name: network_of(model, name).split.layout.number for name in sources}


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (None, {"bass": 30, "piano": 41, "vocals": 41, "drums": 55}),
        ("drums", dict.fromkeys(["bass", "piano", "vocals", "drums"], 55)),
        ([500, 30000], dict.fromkeys(["bass", "piano", "vocals", "drums"], 2)),
        (
            {"piano": "bass", "drums": [100.0, 200.0]},
            {"bass": 30, "piano": 30, "vocals": 41, "drums": 3},
        ),
    ],
)
def test_bands_are_chosen_by_source(bands: Any, expected: dict[str, int]) -> None:
    assert numbers_of_bands(bands=bands) == expected


# ----------------------------------------------------------------- counts


def formula(scheme: str, channels: int, extra_linear: bool) -> int:
    """Parameters of a network of the paper's size."""
    sizes = [2 * channels * width for width in widths(scheme)]  # real numbers of a band
    bands, inputs, features, hidden, mask = len(sizes), sum(sizes), 128, 256, 512
    lstm = 2 * 4 * (features * hidden + hidden * hidden + 2 * hidden)
    residual = 2 * features + lstm + (2 * hidden + 1) * features
    split = 2 * inputs + inputs * features + bands * features
    masks = bands * (2 * features + (features + 1) * mask)
    if extra_linear:
        masks += sum((mask + 1) * size + (size + 1) * 2 * size for size in sizes)
    else:
        masks += (mask + 1) * 2 * inputs
    return split + 12 * 2 * residual + masks


@pytest.mark.parametrize(
    ("scheme", "paper", "reimplementation"),
    [
        ("v7", 28_018_064, 27_516_276),
        ("bass", 27_287_312, 29_211_252),
        ("drums", 28_948_112, 30_116_980),
    ],
)
def test_parameter_counts_equal_their_formula(
    scheme: str, paper: int, reimplementation: int
) -> None:
    departures: dict[str, Any] = {
        name: settings_of("bsrnn/reimplementation")["model"][name]
        for name in ("norm_groups", "extra_linear", "standardise_input")
    }
    for arguments, count in (({}, paper), (departures, reimplementation)):
        model = BSRNN(["vocals"], bands=scheme, **arguments)
        found = sum(p.numel() for p in model.parameters())
        assert found == formula(scheme, 2, extra_linear=bool(arguments)) == count


# ---------------------------------------------------------------- network


def block_of(x: Tensor, norm: nn.GroupNorm, lstm: nn.LSTM, linear: nn.Linear) -> Tensor:
    """``x + linear(LSTM(norm(x)))`` for one sequence (N, D), with one group."""
    normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    mapped: Tensor = linear(lstm(normed)[0])
    return x + mapped


def test_network_equals_its_formula() -> None:
    """A loop over examples, bands and frames."""
    model = small()
    network: Any = network_of(model).double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    mixture = noise(2, 4, 33, 3).double()
    layout = network.split.layout
    place = {
        band: (group, number)
        for group, (_, members) in enumerate(layout.groups)
        for number, band in enumerate(members)
    }
    starts = [0, 6, 14, 16, 25, 33]
    assert [width for width, _ in layout.groups] == [2, 6, 8, 9]
    found = network(mixture)
    layer_norm = nn.functional.layer_norm
    for one, estimate in zip(mixture, found, strict=True):
        x = torch.empty(5, 3, 8, dtype=torch.float64)  # (K, N, D)
        for band, (low, high) in enumerate(pairwise(starts)):
            group, number = place[band]
            norm, linear = (
                list(part)[group] for part in (network.split.norms, network.split.linears)
            )
            part = one[:, low:high].permute(2, 1, 0).flatten(1)
            # Norms are in float32.
            normed = (
                layer_norm(part.float(), part.shape[1:]) * norm.gain[number] + norm.offset[number]
            )
            x[band] = normed @ linear.weight[number] + linear.bias[number]
        for axis in ("time", "bands"):
            residual = getattr(network.blocks[0], axis)
            x = torch.stack([
                block_of(row, residual.norm, residual.lstm, residual.linear) for row in x
            ]).transpose(0, 1)  # fmt: skip
        norm, mlp = network.mask
        for band, (low, high) in enumerate(pairwise(starts)):
            group, number = place[band]
            hidden = layer_norm(x[band].float(), [8]) * norm.gain[band] + norm.offset[band]
            first, second = mlp.groups[group]
            hidden = torch.tanh(hidden @ first.weight[number] + first.bias[number])
            values, gates = (hidden @ second.weight[number] + second.bias[number]).chunk(2, 1)
            mask = (values * gates.sigmoid()).float().unflatten(1, (high - low, 2, 2))
            mask = torch.view_as_complex(mask.contiguous())  # (N, F, C)
            parts = one[:, low:high].unflatten(0, (2, 2)).movedim(1, 3).contiguous()
            expected = mask.permute(2, 1, 0) * torch.view_as_complex(parts)  # (C, F, N)
            real, imaginary = estimate[:, low:high].unflatten(0, (2, 2)).unbind(1)
            assert torch.allclose(real, expected.real, atol=1e-6)
            assert torch.allclose(imaginary, expected.imag, atol=1e-6)


def test_instance_norm_is_one_group_per_feature() -> None:
    norm = network_of(small(norm_groups=8)).blocks[0].get_submodule("time.norm")
    x = noise(3, 8, 20)
    expected = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-5)


def test_estimates_do_not_depend_on_a_standardised_inputs_mean_and_scale() -> None:
    """The mask of a shifted and scaled spectrum is the same."""
    network = network_of(small(standardise_input=True))
    spectrum = noise(2, 4, 33, 5)
    moved = 3 * spectrum + torch.tensor([0.2, -0.1, 0.2, -0.1])[:, None, None]
    masks = []
    for given in (spectrum, moved):
        pairs = given.unflatten(1, (2, 2)).movedim(2, 4).contiguous()
        estimate = network(given).unflatten(1, (2, 2)).movedim(2, 4).contiguous()
        masks.append(torch.view_as_complex(estimate) / torch.view_as_complex(pairs))
    assert torch.allclose(masks[0], masks[1], atol=1e-3)
    plain = network_of(small())
    assert not torch.allclose(plain(moved), network(moved), atol=1e-3)
    assert network(0 * spectrum).isfinite().all()


# --------------------------------------------------------------- training


def test_checkpointed_gradients_are_equal() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = small(blocks=2, checkpoint_activations=checkpointed).train()
        model.loss(example())["loss"].backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert recomputed is not None
        assert torch.equal(plain, recomputed)


def test_checkpointed_blocks_keep_less_for_the_backward_pass() -> None:
    kept = []
    for checkpointed in (False, True):
        model = small(blocks=4, checkpoint_activations=checkpointed).train()
        sizes: dict[int, int] = {}

        def remember(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            model.loss(example())
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.7 * kept[0]


def test_loss_is_the_sum_of_the_sources_losses() -> None:
    model = small(["vocals", "bass"])
    assert isinstance(model.loss_function, SpectralL1)
    assert (model.loss_function.n_fft, model.loss_function.hop_length) == (64, 32)
    losses = model.loss(example(2))
    assert losses["loss"].item() == pytest.approx(
        (losses["loss/vocals"] + losses["loss/bass"]).item()
    )
    weighted = AlphaWeighted(SpectralL1(64, 32), {"vocals": 0.25, "bass": 0.75})
    model = small(["vocals", "bass"], loss_function=weighted)
    losses = model.loss(example(2))
    expected = 0.5 * losses["loss/vocals"] + 1.5 * losses["loss/bass"]
    assert losses["loss"].item() == pytest.approx(expected.item())


def test_chunks_of_the_config_are_half_a_second_apart() -> None:
    settings = settings_of("bsrnn")
    chunk = round(settings["data"]["segment_seconds"] * 44100)
    assert OverlapAdd(chunk, settings["model"]["overlap"]).hop == 22050
