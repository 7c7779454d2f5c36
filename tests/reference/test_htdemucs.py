"""HTDemucs against the packages ``demucs`` and ``msst``, on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from demucs.apply import apply_model
from demucs.htdemucs import HTDemucs as Package
from demucs.states import load_model
from msst.utils.model_utils import demix
from msst.utils.settings import get_model_from_config, load_config
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.htdemucs import HTDemucs, HTDemucsNetwork
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop import demucs, msst

SOURCES = ["drums", "bass", "other", "vocals"]
SMALL = {"channels": 8, "t_layers": 3, "t_heads": 2, "dconv_mode": 3}
OURS = {"channels": 8, "transformer_layers": 3, "heads": 2}
SIZES = [
    ({"bottom_channels": 16}, {"bottleneck_channels": 16}),
    ({}, {"bottleneck_channels": 0}),
    ({"nfft": 2048, "t_hidden_scale": 2.0}, {"n_fft": 2048, "expansion": 2}),
    ({"depth": 3, "nfft": 512, "t_layers": 2}, {"depth": 3, "n_fft": 512, "transformer_layers": 2}),
]
# Longer than a frame, a multiple of all strides, and shorter than the padding.
LENGTHS = (9001, 8192, 1000)


def pair(
    theirs: dict[str, Any] | None = None, ours: dict[str, Any] | None = None, **settings: Any
) -> tuple[nn.Module, HTDemucs]:
    """Both models, in evaluation mode, with the same random weights, gains and biases."""
    torch.manual_seed(0)
    settings = {"use_train_segment": False, **SMALL, **(theirs or {}), **settings}
    package: nn.Module = Package(SOURCES, **settings).eval()
    with torch.no_grad():
        for parameter in package.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # scales are small, gains 1
    arguments: dict[str, Any] = {"bottleneck_channels": 0, **OURS, **(ours or {})}
    model = HTDemucs(SOURCES, **arguments).eval()
    model.network.load_state_dict(package.state_dict())
    return package, model


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("sources", "bottleneck", "layers", "count"),
    [
        (4, 512, 5, 41_984_456),
        (6, 0, 5, 27_414_996),
        (4, 512, 7, 54_604_232),
        (4, 0, 5, 27_410_376),
    ],
)
def test_parameter_counts(sources: int, bottleneck: int, layers: int, count: int) -> None:
    with torch.device("meta"):  # without initial values
        network = HTDemucsNetwork(
            sources, 2, 48, 4, 4096, bottleneck, layers, heads=8, expansion=4, dropout=0.0,
            checkpoint_activations=False,
        )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("theirs", "ours"), SIZES, ids=str)
def test_estimates_agree(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    package, model = pair(theirs, ours)
    for samples in LENGTHS:
        mixture = noise(2, 2, samples)
        with torch.no_grad():
            assert_equal(model(mixture), package(mixture))


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_losses_and_gradients_agree(checkpoint_activations: bool) -> None:
    package, model = pair(
        {"bottom_channels": 16},
        {"bottleneck_channels": 16, "checkpoint_activations": checkpoint_activations},
    )
    targets = noise(2, 4, 2, 6000)
    batch = Batch(targets.sum(1), targets)
    loss = model.train().loss(batch)["loss"]
    loss.backward()
    expected = nn.functional.l1_loss(package.train()(batch.mixture), targets)
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    found = dict(model.network.named_parameters())
    largest = max(p.grad.abs().max() for p in package.parameters() if p.grad is not None)
    for name, weights in package.named_parameters():
        mine, theirs = found.pop(name).grad, weights.grad
        assert mine is not None
        assert theirs is not None
        # Some are zero but for rounding, such as those of the keys' biases.
        tolerance = 1e-4 * theirs.abs().max() + 1e-6 * largest
        assert (mine - theirs).abs().max() < tolerance, name
    assert not found


def test_initial_weights_have_the_same_deviations() -> None:
    torch.manual_seed(0)
    theirs = Package(SOURCES, channels=16, dconv_mode=3, bottom_channels=64).state_dict()
    ours = HTDemucs(SOURCES, channels=16, bottleneck_channels=64).network.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }
    for name, value in theirs.items():
        if value.numel() > 2000:
            assert ours[name].std() / value.std() == pytest.approx(1, abs=0.1), name
        elif value.numel() > 1 and not value.std():
            assert torch.equal(ours[name], value), name


SEGMENT = 8192


@pytest.mark.parametrize("samples", [5000, SEGMENT, 2 * SEGMENT + 1, 30_011])
def test_whole_tracks_agree(samples: int) -> None:
    """Shorter than a segment, as long as one, and longer, as the package's command separates."""
    package, model = pair(use_train_segment=True, segment=SEGMENT / 44100)
    model.segment_seconds = SEGMENT / 44100
    mixture = noise(2, samples) + 0.02
    mean, deviation = mixture.mean(0).mean(), mixture.mean(0).std() + 1e-8
    expected = apply_model(package, ((mixture - mean) / deviation)[None], shifts=0)[0]
    assert_equal(model.separate(mixture), expected * deviation + mean)


def test_exported_files_are_loaded_by_the_package(tmp_path: Path) -> None:
    _, model = pair({"bottom_channels": 16}, {"bottleneck_channels": 16})
    model.segment_seconds = SEGMENT / 44100
    demucs.write(model, tmp_path / "model.th")
    theirs = load_model(tmp_path / "model.th").eval()
    assert theirs.sources == SOURCES
    assert int(theirs.segment * theirs.samplerate) == SEGMENT
    mixture = noise(1, 2, SEGMENT)
    with torch.no_grad():
        assert_equal(model(mixture), theirs(mixture))


# ------------------------------------------------------------------- MSST


def msst_config(overlaps: int = 2, **options: Any) -> dict[str, Any]:
    """A config as MSST's, with a small network."""
    training = {
        "instruments": SOURCES, "target_instrument": None, "channels": 2, "samplerate": 44100,
        "segment": SEGMENT / 44100, "use_amp": False,
    }  # fmt: skip
    return {
        "audio": {"chunk_size": 485100, "sample_rate": 44100},
        "training": training,
        "model": "htdemucs",
        "htdemucs": {**SMALL, "bottom_channels": 16, "t_emb": "sin", "emb_smooth": True, **options},
        "inference": {"num_overlap": overlaps, "batch_size": 2},
    }


@pytest.mark.parametrize("overlaps", [1, 4])
@pytest.mark.parametrize("samples", [5000, SEGMENT, 20_011])
def test_separation_equals_demix(samples: int, overlaps: int, tmp_path: Path) -> None:
    path, weights = tmp_path / "config.yaml", tmp_path / "model.ckpt"
    path.write_text(yaml.dump(msst_config(overlaps)))
    torch.manual_seed(0)
    theirs, _ = get_model_from_config("htdemucs", str(path))
    torch.save({"state": theirs.eval().state_dict()}, weights)
    model, notes = msst.load(path, weights)
    assert not notes
    mixture = noise(2, samples)
    config = load_config("htdemucs", str(path))
    result = demix(config, theirs, mixture.numpy(), torch.device("cpu"), "htdemucs")
    expected = torch.stack([torch.from_numpy(result[name]) for name in model.sources])
    assert_equal(model.separate(mixture), expected)


def test_exported_files_are_loaded_by_msst(tmp_path: Path) -> None:
    _, model = pair({"bottom_channels": 16}, {"bottleneck_channels": 16})
    config, weights = msst.write(model, tmp_path)
    theirs, _ = get_model_from_config("htdemucs", str(config))
    theirs.load_state_dict(torch.load(weights), strict=True)
    mixture = noise(1, 2, 5000)
    with torch.no_grad():
        assert_equal(model(mixture), theirs.eval()(mixture))
    again = msst.load(config, weights).model
    fixed = {*model.hparams} - model.changeable_hparams
    assert {name: again.hparams[name] for name in fixed} == {
        name: model.hparams[name] for name in fixed
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t_layers": 5}, r"config.yaml: model.t_layers is 5, but .*model.ckpt has 3"),
        ({"t_group_norm": True}, r"config.yaml: t_group_norm is True: HTDemucs with"),
    ],
)
def test_configs_that_contradict_the_weights(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    _, model = pair({"bottom_channels": 16}, {"bottleneck_channels": 16})
    torch.save(model.network.state_dict(), tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.dump(msst_config(**options)))
    with pytest.raises(CheckpointError, match=words):
        msst.load(tmp_path / "config.yaml", tmp_path / "model.ckpt")
