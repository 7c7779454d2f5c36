"""DTTNet: counts, frames, bins by source, and the network against its formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.batches import Batch
from lightning_modules.architectures.dttnet import DTTNet, DTTNetNetwork
from lightning_modules.layers.multiplicative_unet import ResidualTFCTDF
from lightning_modules.losses import L1
from tests.helpers.backward import kept_share_of_checkpointed
from tests.helpers.configs import settings_of
from tests.helpers.melodies import RATE
from tests.helpers.overfitting import SECONDS, overfitted_sdr


def small(*sources: str, **arguments: Any) -> DTTNet:
    torch.manual_seed(0)
    return DTTNet(list(sources or ("vocals",)), **{**DTTNet.tiny, **arguments})


def network_of(model: DTTNet, source: str = "vocals") -> DTTNetNetwork:
    network = model.networks[source]
    assert isinstance(network, DTTNetNetwork)
    return network


@pytest.mark.parametrize(
    ("source", "parameters"),
    [("vocals", 4_958_468), ("drums", 4_958_468), ("piano", 4_958_468), ("bass", 4_184_388)],
)
def test_parameter_counts(source: str, parameters: int) -> None:
    """Counted in the authors' code, which stores 6,144 + 4 x 1,025 constants more as parameters."""
    settings = settings_of("dttnet")["model"]
    model = DTTNet([source], channels=settings["channels"], scales=settings["scales"])
    assert sum(p.numel() for p in model.parameters()) == parameters
    if source != "bass":
        assert round((parameters + 6144 + 4 * 1025) / 1e6, 2) == 4.97  # the paper


@pytest.mark.parametrize("config", ["dttnet", "dttnet/small"])
def test_crops_of_the_configs_need_no_padding(config: str) -> None:
    settings = settings_of(config)
    samples = round(settings["data"]["segment_seconds"] * 44100)
    hop = settings["model"].get("hop_length", 1024)
    assert samples % hop == 0
    assert (samples // hop + 1) % 2 ** settings["model"]["scales"] == 0


@pytest.mark.parametrize(
    ("samples", "frames"), [(261_120, 256), (261_121, 260), (1, 4), (3 * 1024, 4)]
)
def test_number_of_frames_is_a_multiple(samples: int, frames: int) -> None:
    model = small(n_fft=6144, hop_length=1024, scales=2)
    assert model.network_input(torch.zeros(1, 2, samples)).shape == (1, 4, 3073, frames)


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (None, {"bass": 864, "piano": 2048}),
        (1024, {"bass": 1024, "piano": 1024}),
        ({"piano": 512}, {"bass": 864, "piano": 512}),
    ],
)
def test_bins_are_chosen_by_source(bins: Any, expected: dict[str, int]) -> None:
    model = small("bass", "piano", bins=bins, n_fft=6144, hop_length=1024)
    with torch.no_grad():
        estimates = model.eval().spectra(torch.randn(1, 4, 3073, 2))
    for (name, number), estimate in zip(expected.items(), estimates[0], strict=True):
        assert network_of(model, name).bins == number
        assert estimate[:, :number].all()
        assert not estimate[:, number:].any()


def test_loss_is_the_sum_of_the_sources_mean_absolute_errors() -> None:
    model = small("vocals", "bass")
    targets = 0.1 * torch.randn(2, 2, 2, 1000)
    batch = Batch(targets.sum(1), targets)
    assert isinstance(model.loss_function, L1)
    losses = model.eval().loss(batch)
    expected = (model(batch.mixture) - targets).abs().mean((0, 2, 3)).sum()
    assert torch.allclose(losses["loss"], expected)


# ---------------------------------------------------------------- network


def normed(x: Tensor, norm: Any) -> Tensor:
    """Batch norm with running statistics, then ReLU, of images (C, N, F)."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    scaled = (x - norm.running_mean[:, None, None]) * gain[:, None, None]
    activated: Tensor = (scaled + norm.bias[:, None, None]).clamp_min(0)
    return activated


def convolved(x: Tensor, layers: Any) -> Tensor:
    for convolution, norm, _ in layers:
        kernel = convolution.weight
        patches = functional.unfold(x[None], 3, padding=1)[0]  # (C 9, N F)
        x = (kernel.flatten(1) @ patches).unflatten(1, x.shape[1:])
        x = normed(x + convolution.bias[:, None, None], norm)
    return x


def block_of(x: Tensor, block: Any) -> Tensor:
    hidden = convolved(x, block.before)
    dense = hidden
    for linear, norm, _ in block.dense:
        dense = normed(dense @ linear.weight.T, norm)
    return convolved(hidden + dense, block.after) + convolved(x, block.shortcut)


def sequence_of(x: Tensor, residual: Any) -> Tensor:
    """``x + linear(LSTM(norm(x)))`` for one sequence (N, D)."""
    groups = x.unflatten(1, (residual.norm.num_groups, -1))
    variances, means = torch.var_mean(groups, (0, 2), correction=0, keepdim=True)
    whitened = ((groups - means) / (variances + 1e-5).sqrt()).flatten(1)
    given = whitened * residual.norm.weight + residual.norm.bias
    mapped: Tensor = residual.linear(residual.lstm(given)[0])
    return x + mapped


def middle_of(x: Tensor, middle: Any) -> Tensor:
    """The last part of the network at the smallest scale, (C, N, F)."""
    outputs = []
    for head in x.chunk(middle.heads):
        rows = head.permute(2, 1, 0)  # (F, N, D)
        for block in middle:
            rows = torch.stack([sequence_of(row, block.time) for row in rows])
            columns = [sequence_of(column, block.bands) for column in rows.unbind(1)]
            rows = torch.stack(columns, 1)
        outputs.append(rows.permute(2, 1, 0))
    return torch.cat(outputs)


def test_network_equals_its_formula() -> None:
    """A loop over examples, heads, bins and frames, with one reduction of the resolution."""
    network: Any = network_of(small(depth=2, blocks=2, bins=16, n_fft=64, hop_length=16))
    network = network.double().eval()
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand_like(tensor)
    unet, first, last = network.unet, network.first, network.last
    mixture = torch.randn(2, 4, 33, 6, dtype=torch.float64)
    for one, estimate in zip(mixture, network(mixture), strict=True):
        given = one[:, :16].transpose(1, 2)  # (4, N, F)
        x = torch.einsum("dc,cnf->dnf", first[0].weight[..., 0, 0], given)
        x = normed(x + first[0].bias[:, None, None], first[1])
        skip = block_of(x, unet.encoder[0])
        quarters = skip.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (C, N/2, 2, F/2, 2)
        x = torch.einsum("dcij,cnifj->dnf", unet.down[0][0].weight, quarters)
        x = normed(x + unet.down[0][0].bias[:, None, None], unet.down[0][1])
        x = middle_of(block_of(x, unet.middle[0]), unet.middle[1])
        x = torch.einsum("cdij,cnf->dnifj", unet.up[0][0].weight, x).flatten(3).flatten(1, 2)
        x = normed(x + unet.up[0][0].bias[:, None, None], unet.up[0][1])
        x = block_of(x * skip, unet.decoder[0])
        x = torch.einsum("dc,cnf->dfn", last.weight[..., 0, 0], x) + last.bias[:, None, None]
        assert torch.allclose(estimate[:, :16], x)
        assert not estimate[:, 16:].any()


def test_convolutions_of_groups_see_their_own_channels() -> None:
    block = ResidualTFCTDF(4, 8, 2, 1, groups=2).eval()
    x = torch.randn(1, 4, 3, 8)
    changed = x.clone()
    changed[:, :2] += 1
    difference = (block(x) - block(changed)).abs().sum((0, 2, 3))
    assert difference[:2].all()
    assert not difference[2:].any()


def test_only_dense_layers_lack_biases() -> None:
    layers = network_of(small()).modules()
    without = {type(layer) for layer in layers if getattr(layer, "bias", ...) is None}
    assert without == {nn.Linear}


def test_checkpointed_gradients_are_equal_and_need_less_memory() -> None:
    targets = 0.1 * torch.randn(1, 1, 2, 64 * 31)
    plain, checkpointed = (
        small(checkpoint_activations=each, depth=2).train() for each in (False, True)
    )
    assert kept_share_of_checkpointed(plain, checkpointed, targets) < 0.7


@pytest.mark.slow
def test_one_batch_is_overfitted() -> None:
    model = small(
        "vocals", "other", channels=8, n_fft=1024, hop_length=500, bins=512, bottleneck=8,
        sample_rate=RATE, segment_seconds=SECONDS,
    )  # fmt: skip
    assert (overfitted_sdr(model, steps=54, learning_rate=0.04) > 15).all()
