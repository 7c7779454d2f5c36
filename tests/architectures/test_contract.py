"""What every architecture must do: the tests of ``SourceSeparator``'s contract for all configs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch, PartialBatch
from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.configs import NAMES, ROOTS, class_of, tiny_model

# Shorter than any window, shorter than the receptive fields, and not a multiple of any stride.
LENGTHS = (1, 1001, 6007)
# Have LSTMs or complex spectra, which break the graph; see their configs.
GRAPH_BREAKS = ("demucs", "hybrid_demucs", "mmdense_lstm", "mmdense_net")
NETWORK_PER_SOURCE = (
    "bsrnn", "cdae", "dttnet", "fnn", "mask_unet", "mmdense_lstm", "mmdense_net", "open_unmix",
)  # fmt: skip
# Their estimates of silence are not silent.
WITH_BIASES = ("DTTNet", "WaveUNet")


@pytest.fixture(scope="module", params=ROOTS)
def model(request: pytest.FixtureRequest) -> SourceSeparator:
    """The small model of each architecture's config."""
    return tiny_model(request.param)


def small(name: str, seed: int = 0) -> SourceSeparator:
    """A small model without a config."""
    torch.manual_seed(seed)
    kind = class_of(name)
    return kind(["vocals", "other"], **kind.tiny)


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def example(model: SourceSeparator, samples: int = LENGTHS[-1], examples: int = 1) -> Batch:
    targets = noise(examples, len(model.sources), model.audio_channels, samples)
    return Batch(targets.sum(1), targets)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ROOTS])
def test_variants_separate(name: str) -> None:
    model = tiny_model(name).eval()
    mixture = noise(1, model.audio_channels, 1001)
    with torch.no_grad():
        estimates = model(mixture)
    assert estimates.shape == (1, len(model.sources), *mixture.shape[1:])
    assert estimates.isfinite().all()


@pytest.mark.slow
def test_estimates_of_any_length_batch_size_and_level(model: SourceSeparator) -> None:
    model.eval()
    with torch.no_grad():
        for samples in LENGTHS:
            for batch, gain in ((1, 1.0), (3, 1.0), (1, 0.0), (1, 100.0)):
                mixture = gain * noise(batch, model.audio_channels, samples)
                estimates = model(mixture)
                assert estimates.shape == (batch, len(model.sources), *mixture.shape[1:])
                assert estimates.isfinite().all(), (samples, batch, gain)
                if gain == 0 and type(model).__name__ not in WITH_BIASES:
                    assert not estimates.any()


def test_mono_and_stereo_models_separate_tracks_of_any_length(model: SourceSeparator) -> None:
    """Shorter than a chunk, longer than a chunk, and silent."""
    model.eval()
    model.segment_seconds, before = 0.1, model.segment_seconds
    for samples in LENGTHS:
        for mixture in (noise(2, samples), torch.zeros(2, samples)):
            estimates = model.separate(mixture)
            assert estimates.shape == (len(model.sources), 2, samples)
            assert estimates.isfinite().all()
    model.segment_seconds = before


@pytest.mark.parametrize("name", ROOTS)
def test_examples_of_a_batch_are_separated_independently(name: str) -> None:
    model = small(name).eval()
    mixture = noise(3, model.audio_channels, LENGTHS[-1])
    with torch.no_grad():
        together, apart = model(mixture), torch.cat([model(one[None]) for one in mixture])
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.slow
def test_losses_and_gradients_are_finite(model: SourceSeparator) -> None:
    """With one example, a silent source, and silence only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        pytest.skip("is not trained by gradients")
    lengths = list(LENGTHS)
    if isinstance(model, DenoisingAutoencoder):
        # Its convolutions are not padded, so it needs some frames to estimate one.
        for samples in (lengths.pop(0), lengths.pop(0)):
            with pytest.raises(ValueError, match=r"lengthen the segment \(segment_seconds"):
                model.loss(example(model, samples))
    model.train()
    for samples in lengths:
        targets = example(model, samples).targets
        silent_source = targets.clone()
        silent_source[:, 0] = 0
        for batch in (targets, silent_source, 0 * targets):
            model.zero_grad()
            loss = model.loss(Batch(batch.sum(1), batch))["loss"]
            assert loss.isfinite(), samples
            loss.backward()
            gradients = [p.grad for p in trained if p.grad is not None]
            assert len(gradients) == len(trained)
            assert all(gradient.isfinite().all() for gradient in gradients), samples


@pytest.mark.slow
def test_unknown_targets_are_left_out_of_the_loss(model: SourceSeparator) -> None:
    if type(model).__name__ == "NMF":
        pytest.skip("silent targets leave its templates as they are")
    model.eval()
    mixture, targets = example(model, 3001, examples=2)
    known = torch.ones(2, len(model.sources), dtype=torch.bool)
    with torch.no_grad():
        if type(model).__name__ == "Roma":
            with pytest.raises(ValueError, match="cannot leave out sources"):
                model.loss(PartialBatch(mixture, targets, known))
            return
        plain = model.loss(Batch(mixture, targets))
        for name, value in model.loss(PartialBatch(mixture, targets, known)).items():
            assert torch.allclose(value, plain[name], rtol=1e-4), name
        known[0, 0] = known[:, -1] = False
        losses = []
        for other in (targets, targets + noise(*targets.shape).flip(0)):
            changed = torch.where(known[..., None, None], targets, other)
            losses.append(model.loss(PartialBatch(mixture, changed, known)))
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name]), name
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained:
        model.train()
        model.zero_grad()
        model.loss(PartialBatch(mixture, targets, known))["loss"].backward()
        # Each has a gradient, or training on several devices would wait for it.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        model.zero_grad()


def test_mixed_precision(model: SourceSeparator) -> None:
    """Estimates and losses are float32 and close to those in full precision."""
    model.eval()
    batch = example(model)
    with torch.no_grad():
        plain = model(batch.mixture)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, loss = model(batch.mixture), model.loss(batch)["loss"]
    assert mixed.dtype == loss.dtype == torch.float32
    assert (mixed - plain).abs().max() < 0.1 * plain.abs().max()


@pytest.mark.parametrize("name", ["conv_tasnet", "demucs", "hybrid_demucs"])
def test_half_precision_input(name: str) -> None:
    """Estimates have the input's type; the FFTs of ``hybrid_demucs`` need float32 weights."""
    model = small(name).eval()
    if name != "hybrid_demucs":
        model.bfloat16()
    mixture = noise(2, model.audio_channels, LENGTHS[-1]).bfloat16()
    with torch.no_grad():
        estimates = model(mixture)
    assert estimates.dtype == torch.bfloat16
    assert estimates.shape == (2, len(model.sources), *mixture.shape[1:])
    assert estimates.isfinite().all()


@pytest.mark.parametrize("name", NETWORK_PER_SOURCE)
def test_networks_of_sources_are_trained_independently(name: str) -> None:
    """Each network has the gradient of its own source's loss, in their sum as well."""
    model = small(name, seed=1)
    networks: Any = model.networks
    batch = example(model)

    def gradients(loss: str) -> dict[str, list[Tensor]]:
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        model.loss(batch)[loss].backward()
        return {
            source: [torch.zeros(()) if p.grad is None else p.grad for p in network.parameters()]
            for source, network in networks.items()
        }

    alone, together = gradients("loss/vocals"), gradients("loss")
    assert not any(gradient.any() for gradient in alone["other"])
    assert any(gradient.any() for gradient in alone["vocals"])
    for one, other in zip(alone["vocals"], together["vocals"], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ROOTS)
def test_models_built_without_a_config_are_reloaded(name: str, tmp_path: Path) -> None:
    built = small(name)
    contents: dict[str, Any] = {"state_dict": built.state_dict()}
    built.on_save_checkpoint(contents)
    torch.save(contents, tmp_path / "built.ckpt")
    loaded = load_separator(tmp_path / "built.ckpt")
    assert type(loaded) is type(built)
    for key, weights in built.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], weights), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in ROOTS if name not in ("nmf", "nmfd")],  # have no network
)
def test_networks_compile_as_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo traces a training step; the backend runs the graph as it is, without inductor."""
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = functools.partial(torch.compile, backend=backend, fullgraph=name not in GRAPH_BREAKS)
    torch.compiler.reset()
    model, batch = small(name), example(small(name))
    torch.manual_seed(0)
    expected = copy.deepcopy(model).loss(batch)["loss"]
    monkeypatch.setattr(torch, "compile", compiled)
    model.compiled = True
    model.setup("fit")
    torch.manual_seed(0)
    loss = model.loss(batch)["loss"]
    assert torch.allclose(loss, expected, rtol=1e-4)
    loss.backward()
    assert graphs > 0
