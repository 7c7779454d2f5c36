"""Cross-linked Open-Unmix: crosslinks and losses against their definitions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.architectures.crosslinked_open_unmix import (
    CrosslinkedOpenUnmix,
    combined_squares,
    weighted_sdr,
)
from lightning_modules.architectures.open_unmix import OpenUnmix
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]
SMALL = {"hidden_size": 16, "n_fft": 512, "hop_length": 256, "segment_seconds": 0.5}


def small(sources: list[str] = FOUR, **arguments: Any) -> CrosslinkedOpenUnmix:
    torch.manual_seed(0)
    return CrosslinkedOpenUnmix(sources, **{**SMALL, **arguments}).eval()


def batch(samples: int = 5000) -> Batch:
    torch.manual_seed(1)
    targets = torch.randn(2, 4, 2, samples) * 0.1
    return Batch(targets.sum(1), targets)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_parameter_counts() -> None:
    full: dict[str, Any] = {"n_fft": 4096, "hop_length": 1024}
    plain = count(OpenUnmix(FOUR, **full))
    assert count(CrosslinkedOpenUnmix(FOUR, "average", **full)) == plain == 35_573_392
    linked = CrosslinkedOpenUnmix(FOUR, "concatenate", **full)
    assert count(linked) == plain + 4 * 3 * 512 * 512
    assert linked.networks["bass"].state_dict()["fc2.weight"].shape == (512, 512 + 512 + 3 * 512)


def test_concatenated_signals_are_the_other_networks_tanh_outputs() -> None:
    model = small(layers=1)
    magnitudes = torch.rand(2, 2, 257, 20)
    inputs_of: dict[str, Tensor] = {}
    encoded: dict[str, Tensor] = {}
    for name, network in model.networks.items():
        network.fc2.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda _m, inputs, key=name: inputs_of.__setitem__(key, inputs[0])
        )
        encoded[name] = network.encode(magnitudes)  # type: ignore[operator]
    model.magnitudes(magnitudes)
    for name, network in model.networks.items():
        own, recurrent, *others = inputs_of[name].split(16, -1)
        assert torch.equal(own, encoded[name])
        assert torch.equal(recurrent, network.run_lstm(own))  # type: ignore[operator]
        for other, signal in zip([n for n in FOUR if n != name], others, strict=True):
            assert torch.equal(signal, encoded[other])


def test_with_zero_crosslink_weights_it_equals_open_unmix() -> None:
    linked = small(layers=2)
    plain = OpenUnmix(FOUR, layers=2, **SMALL).eval()  # type: ignore[arg-type]
    state = {
        key: value[:, :32] if key.endswith("fc2.weight") else value
        for key, value in linked.state_dict().items()
    }
    plain.load_state_dict(state)
    for network in linked.networks.values():
        network.fc2.weight.data[:, 32:] = 0  # type: ignore[union-attr, operator]
    magnitudes = torch.rand(2, 2, 257, 20)
    ours, theirs = linked.magnitudes(magnitudes), plain.magnitudes(magnitudes)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_average_crosslinks_equal_their_definition() -> None:
    model = small(crosslinks="average", layers=1)
    magnitudes = torch.rand(2, 2, 257, 20)
    networks: list[Any] = list(model.networks.values())
    encoded = [network.encode(magnitudes) for network in networks]
    bridge = sum(encoded) / 4
    pairs = [
        torch.cat([own, network.lstm(bridge)[0]], -1)
        for own, network in zip(encoded, networks, strict=True)
    ]
    expected = [network.decode(sum(pairs) / 4, magnitudes) for network in networks]
    assert torch.allclose(model.magnitudes(magnitudes), torch.stack(expected, 1), rtol=1e-4)


def groups(sources: int) -> list[tuple[int, ...]]:
    sizes = range(1, sources)
    return [g for size in sizes for g in itertools.combinations(range(sources), size)]


@pytest.mark.parametrize("sources", [2, 3, 4, 6])
def test_combined_squares_equal_the_mean_over_all_combinations(sources: int) -> None:
    errors = torch.randn(2, sources, 2, 5, 7, dtype=torch.float64)
    expected = np.mean([errors[:, list(g)].sum(1).square().mean() for g in groups(sources)])
    assert combined_squares(errors) == pytest.approx(expected, rel=1e-12)


def test_weighted_sdr_equals_its_formula() -> None:
    torch.manual_seed(0)
    estimate, target, rest = torch.randn(3, 2, 2, 1000, dtype=torch.float64)
    mixture = target + 0.3 * rest
    values = []
    for y, t, x in zip(
        *(each.reshape(4, -1).numpy() for each in (estimate, target, mixture)), strict=True
    ):
        share = t @ t / (t @ t + (x - t) @ (x - t))
        first = y @ t / np.linalg.norm(y) / np.linalg.norm(t)
        second = (x - y) @ (x - t) / np.linalg.norm(x - y) / np.linalg.norm(x - t)
        values.append(-share * first - (1 - share) * second)
    assert float(weighted_sdr(estimate, target, mixture)) == pytest.approx(np.mean(values))
    assert float(weighted_sdr(target, target, mixture)) == pytest.approx(-1)


def test_silence_has_finite_losses_and_gradients() -> None:
    model = small(crosslinks="average", combinations=True, waveform_weight=10.0).train()
    examples = batch()
    examples.targets[:, 1] = 0  # a silent source
    examples.targets[0] = 0  # a silent example
    loss = model.loss(Batch(examples.targets.sum(1), examples.targets))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("combinations", [False, True])
@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_loss_equals_its_definition(combinations: bool, weight: float) -> None:
    model = small(crosslinks="average", combinations=combinations, waveform_weight=weight)
    examples = batch()
    spectrum, true = model.stft(examples.mixture), model.stft(examples.targets).abs()
    estimates = model.magnitudes(spectrum.abs())
    waveforms = model.istft(estimates * torch.sgn(spectrum)[:, None], 5000)
    chosen = groups(4) if combinations else [(0,), (1,), (2,), (3,)]
    assert len(chosen) == (14 if combinations else 4)
    total = 0.0
    for group in map(list, chosen):
        square = (estimates[:, group].sum(1) - true[:, group].sum(1)).square().mean()
        sdr = weighted_sdr(
            waveforms[:, group].sum(1), examples.targets[:, group].sum(1), examples.mixture
        )
        total += (square + weight * (1 + sdr)).item() / len(chosen)
    losses = model.loss(examples)
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)
    assert ("loss/waveform" in losses) == bool(weight)
    single = (estimates[:, 0] - true[:, 0]).square().mean()
    assert losses["loss/vocals"].item() == pytest.approx(single.item(), rel=1e-5)


def test_losses_are_float32_under_autocast() -> None:
    model = small(crosslinks="average", combinations=True, waveform_weight=10.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.loss(batch())["loss"].dtype == torch.float32


def test_recipes_are_the_published_ones() -> None:
    """Goel et al. train like their Open-Unmix; X-UMX like the package openunmix."""
    linked = settings_of("crosslinked_open_unmix")
    alone = settings_of("open_unmix/goel")
    for name in ("hidden_size", "n_fft", "hop_length", "bandwidth_hz", "mono", "optimizer"):
        assert linked["model"][name] == alone["model"][name]
    assert linked["data"] == alone["data"]
    bridged = settings_of("crosslinked_open_unmix/xumx")
    stoter = settings_of("open_unmix")
    for name in ("hidden_size", "n_fft", "hop_length", "bandwidth_hz", "optimizer", "lr_scheduler"):
        assert bridged["model"][name] == stoter["model"][name]
    assert bridged["data"] == stoter["data"] | {"batch_size": 14}
    assert bridged["trainer"]["max_epochs"] == 1000
    assert not bridged["model"]["mono"]
    losses = {name: bridged["model"][name] for name in ("combinations", "waveform_weight")}
    assert losses == {"combinations": True, "waveform_weight": 10.0}
