"""RoFormers against the package ``msst`` (Music-Source-Separation-Training), same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from msst.models.bs_roformer import BSRoformer, MelBandRoformer
from msst.utils.settings import get_model_from_config

from datamodules.batches import Batch
from lightning_modules.architectures.bs_roformer import BSRoFormer
from lightning_modules.architectures.mel_band_roformer import MelBandRoFormer
from lightning_modules.interop import msst
from lightning_modules.interop.msst_files import Imported
from tests.helpers.msst_package import assert_separation_equals_demix

SMALL = {
    "dim": 16, "depth": 2, "dim_head": 8, "heads": 2, "stereo": True, "num_stems": 2,
    "time_transformer_depth": 1, "freq_transformer_depth": 1, "stft_hop_length": 441,
    "mlp_expansion_factor": 1, "attn_dropout": 0.0, "ff_dropout": 0.0,
}  # fmt: skip
KINDS = {
    "bs_roformer": (BSRoformer, {"mask_estimator_depth": 2}),
    "mel_band_roformer": (MelBandRoformer, {"mask_estimator_depth": 1, "num_bands": 60}),
}
INSTRUMENTS = ["drums", "vocals", "Lead Guitar"]


def example(
    kind: str,
    tmp_path: Path,
    chunk: int = 44100,
    overlaps: int = 2,
    batch_size: int = 2,
    **options: Any,
) -> tuple[Any, Imported]:
    """A small model of the package, and the one imported from its files."""
    their_class, defaults = KINDS[kind]
    options = {**SMALL, **defaults, **options}
    torch.manual_seed(0)
    theirs = their_class(**options).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))  # gains are 1, biases may be 0
    config = {
        "audio": {"chunk_size": chunk, "sample_rate": 44100, "num_channels": 2},
        "model": options,
        "training": {"instruments": INSTRUMENTS[: options["num_stems"]], "target_instrument": None},
        "inference": {"batch_size": batch_size, "num_overlap": overlaps},
    }
    (tmp_path / "config.yaml").write_text(yaml.dump(config))
    torch.save(theirs.state_dict(), tmp_path / "model.ckpt")
    return theirs, msst.load(tmp_path / "config.yaml", tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_stems": 3, "stereo": False},
        {"time_transformer_depth": 2, "skip_connection": True, "depth": 3},
        {"mask_estimator_depth": 3, "mlp_expansion_factor": 2, "zero_dc": False},
        {"stft_hop_length": 512, "stft_normalized": True, "freq_transformer_depth": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_estimates_agree(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs, (model, notes) = example(kind, tmp_path, **options)
    assert not notes
    channels = 2 if options.get("stereo", True) else 1
    # Mel-Band RoFormers of the package give whole hops only.
    mixture = 0.1 * torch.randn(2, channels, 50 * options.get("stft_hop_length", 441))
    with torch.no_grad():
        expected, found = theirs(mixture), model(mixture)
    expected = expected.reshape(found.shape)  # without the axis of a single stem or channel
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_agree(kind: str, tmp_path: Path) -> None:
    theirs, (model, _) = example(kind, tmp_path)
    targets = 0.1 * torch.randn(2, 2, 2, 441 * 40)
    mixture = targets.sum(1)
    loss = model.train().loss(Batch(mixture, targets))["loss"]
    loss.backward()
    expected = theirs.train()(mixture, target=targets)
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-4)
    blocks: Any = model.blocks
    ours = blocks[0].time.attentions[0].qkv.weight.grad
    other = theirs.layers[0][0].layers[0][0].to_qkv.weight.grad
    assert (ours - other).abs().max() < 1e-3 * other.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 3])
def test_exported_models_are_loaded_by_the_package(kind: str, number: int, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "features": 16, "blocks": 2, "heads": 2, "head_features": 8, "mask_expansion": 2,
        "hop_length": 441, "segment_seconds": 2.0,
    }  # fmt: skip
    kind_of_ours = BSRoFormer if kind == "bs_roformer" else MelBandRoFormer
    model = kind_of_ours(["vocals", "drums", "b"][:number], **arguments).eval()
    config, weights = msst.write(model, tmp_path)
    theirs, settings = get_model_from_config(kind, str(config))
    theirs.load_state_dict(torch.load(weights), strict=True)
    assert settings.training.instruments == model.sources
    mixture = 0.1 * torch.randn(1, 2, 441 * 40)
    with torch.no_grad():
        expected = theirs.eval()(mixture)
        found = model(mixture)
    assert (found - expected.reshape(found.shape)).abs().max() < 1e-5 * found.abs().max()
    again = msst.load(config, weights).model
    with torch.no_grad():
        assert torch.equal(again(mixture), found)
    fixed = {*model.hparams} - model.changeable_hparams
    assert {name: again.hparams[name] for name in fixed} == {
        name: model.hparams[name] for name in fixed
    }


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("overlaps", [1, 2, 4])
@pytest.mark.parametrize("samples", [441 * 13, 441 * 20, 441 * 50, 20_011])
def test_separation_equals_demix(
    samples: int, overlaps: int, batch_size: int, tmp_path: Path
) -> None:
    """Songs shorter than a chunk, as long as one, longer, and no multiple of anything."""
    theirs, (model, _) = example(
        "bs_roformer", tmp_path, chunk=441 * 20, overlaps=overlaps, batch_size=batch_size
    )
    config = tmp_path / "config.yaml"
    assert_separation_equals_demix(model, theirs, "bs_roformer", config, samples)
