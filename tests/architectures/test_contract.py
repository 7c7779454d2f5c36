"""Every config's model takes what it may be given: any length, one example, silence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batches import Batch
from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.configs import NAMES, ROOTS, tiny_model

# Shorter than any window, shorter than the receptive fields, and multiples of no stride.
SHORT, LENGTHS = 1001, (1, 1001, 20_011)


# Their configs say why; the tiny form of mmdense_net has LSTMs as mmdense_lstm has.
NO_WHOLE_GRAPH = ("demucs", "hybrid_demucs", "mmdense_lstm", "mmdense_net")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> SourceSeparator:
    """Each config's model."""
    return tiny_model(request.param)


@pytest.mark.parametrize("name", ROOTS)
def test_a_model_made_without_a_config_is_loaded_again(name: str, tmp_path: Path) -> None:
    kind = type(tiny_model(name))
    made: SourceSeparator = kind(["vocals", "other"], **kind.tiny)
    contents: dict[str, Any] = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(contents)
    torch.save(contents, tmp_path / "made.ckpt")
    loaded = load_separator(tmp_path / "made.ckpt")
    assert type(loaded) is kind
    for key, weights in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], weights), key


def sound(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_estimates_of_any_length_number_and_loudness(model: SourceSeparator) -> None:
    model.eval()
    with torch.no_grad():
        for samples in LENGTHS:
            for batch, gain in ((1, 1.0), (3, 1.0), (1, 0.0), (1, 100.0)):
                mixture = gain * sound(batch, model.audio_channels, samples)
                estimates = model(mixture)
                assert estimates.shape == (batch, len(model.sources), *mixture.shape[1:])
                assert estimates.isfinite().all(), (samples, batch, gain)


def test_whole_tracks_shorter_than_a_chunk_and_silent_ones(model: SourceSeparator) -> None:
    model.eval()
    for samples in (1, SHORT):
        for mixture in (sound(2, samples), torch.zeros(2, samples)):
            estimates = model.separate(mixture[: model.audio_channels])
            assert estimates.shape == (len(model.sources), model.audio_channels, samples)
            assert estimates.isfinite().all()


def test_losses_and_gradients_of_one_example_and_of_silence(model: SourceSeparator) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        pytest.skip("is not trained by gradients")
    lengths = [SHORT, 20_011]
    if isinstance(model, DenoisingAutoencoder):
        # It pads nothing, so that a training wants some frames to predict one.
        crop = torch.zeros(1, model.audio_channels, lengths.pop(0))
        with pytest.raises(ValueError, match=r"lengthen the segment \(segment_seconds"):
            model.loss(Batch(crop, crop[:, None]))
    model.train()
    for samples in lengths:
        targets = sound(1, len(model.sources), model.audio_channels, samples)
        one_silent = targets * torch.tensor([0.0] + [1.0] * (len(model.sources) - 1))[:, None, None]
        for batch in (targets, one_silent, 0 * targets):
            model.zero_grad()
            loss = model.loss(Batch(batch.sum(1), batch))["loss"]
            assert loss.isfinite(), samples
            loss.backward()
            gradients = [p.grad for p in trained if p.grad is not None]
            assert gradients
            assert all(gradient.isfinite().all() for gradient in gradients), samples


@pytest.mark.parametrize("name", ROOTS)
def test_networks_compile_as_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is caught and run as it is: whether it is faster is the compiler's affair."""
    model = tiny_model(name)
    if not any(list(part.parameters()) for part in model.children()):
        pytest.skip("has no network")
    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = functools.partial(
        torch.compile, backend=backend, fullgraph=name not in NO_WHOLE_GRAPH
    )
    torch.compiler.reset()
    targets = sound(1, len(model.sources), model.audio_channels, 20_011)
    model.eval()
    with torch.no_grad():
        expected = model(targets.sum(1))
        monkeypatch.setattr(torch, "compile", compiled)
        model.compiled = True
        model.setup("fit")
        assert torch.allclose(model(targets.sum(1)), expected, atol=1e-6)
    model.train()
    model.loss(Batch(targets.sum(1), targets))["loss"].backward()
    assert graphs > 0
