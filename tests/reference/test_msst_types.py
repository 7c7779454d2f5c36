"""Types of the package ``msst`` (Music-Source-Separation-Training) against ours, same weights.

``mdx23c`` also against ``mdxnet-infer``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from mdxnet_infer.config import MDX23CConfig
from mdxnet_infer.model import TFC_TDF_net
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.interop import msst
from lightning_modules.losses import MSE, QuantileMasked
from tests.helpers import msst_package

THREE = ["drums", "vocals", "Lead Guitar"]
CHUNK = 4544  # 72 frames of mdx23c
TYPES = ["scnet", "scnet_masked", "scnet_tran", "mdx23c", "moises_light"]


def example(kind: str, folder: Path, stems: int = 2, **options: Any) -> tuple[Any, SourceSeparator]:
    """A tiny network of the package, and the one imported from its files."""
    torch.manual_seed(0)
    theirs, *files = msst_package.write(folder, kind, THREE[:stems], **options)
    model, notes = msst.load(*files)
    assert all("flash_attn" in note for note in notes)
    return theirs, model


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("scnet", {}),
        ("scnet", {"stems": 3, "audio_channels": 1, "dims": [2, 8, 16, 24]}),
        ("scnet", {"band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "conv_depths": [3, 0, 3]}),
        ("scnet", {"band_SR": [0.3, 0.3, 0.4], "band_stride": [1, 2, 8], "band_kernel": [5, 2, 8]}),
        ("scnet", {"compress": 2, "conv_kernel": 5, "num_dplayer": 4, "expand": 2}),
        ("scnet", {"normalized": False, "hop_size": 100, "nfft": 400, "win_size": 400}),
        ("scnet_masked", {"stems": 3}),
        ("scnet_tran", {"tran_depth": 2}),
        ("moises_light", {}),
        ("moises_light", {"use_mask": False, "n_enc": 1, "n_split_dec": 2, "audio_channels": 1}),
        ("moises_light", {"stems": 3, "n_dec": 2, "n_rope": 2, "edge_kernel_size": 1}),
        ("moises_light", {"stems": 1, "n_dec": 0, "n_bands": 2, "normalized": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [CHUNK, 40 * 128, 41 * 128])
def test_estimates_agree(kind: str, options: dict[str, Any], samples: int, tmp_path: Path) -> None:
    theirs, model = example(kind, tmp_path, **options)
    mixture = 0.1 * torch.randn(2, options.get("audio_channels", 2), samples)
    with torch.no_grad():
        assert_close(model(mixture), theirs(mixture))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stems": 1, "num_blocks_per_scale": 2, "growth": 0},
        {"stems": 3, "scale": [1, 4], "num_subbands": 2, "bottleneck_factor": 2},
        {"dim_f": 96, "num_scales": 1, "n_fft": 512, "hop_length": 128},
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [4, 72])
def test_estimates_of_mdx23c_agree(options: dict[str, Any], frames: int, tmp_path: Path) -> None:
    """Only for lengths that the package's network accepts."""
    theirs, model = example("mdx23c", tmp_path, **options)
    mixture = 0.1 * torch.randn(2, 2, options.get("hop_length", 64) * (frames - 1))
    with torch.no_grad():
        assert_close(model(mixture), theirs(mixture))


def test_estimates_of_mdx23c_agree_with_mdxnet_infer(tmp_path: Path) -> None:
    _, model = example("mdx23c", tmp_path)
    config = MDX23CConfig.from_yaml(tmp_path / "config.yaml")
    theirs = TFC_TDF_net(config, torch.device("cpu"))
    theirs.load_state_dict(torch.load(tmp_path / "model.ckpt"), strict=True)
    mixture = 0.1 * torch.randn(2, 2, CHUNK)
    with torch.no_grad():
        assert_close(model(mixture), theirs.eval()(mixture))


@pytest.mark.parametrize("kind", TYPES)
def test_exported_models_are_loaded_by_the_package(kind: str, tmp_path: Path) -> None:
    _, model = example(kind, tmp_path, 3, overlaps=4, normalize=True)
    files = msst.write(model, tmp_path / "back")
    mixture = 0.1 * torch.randn(1, 2, CHUNK)
    again = msst.load(*files).model
    with torch.no_grad():
        assert_close(msst_package.load(kind, *files)(mixture), model(mixture))
        assert torch.equal(again(mixture), model(mixture))
    assert again.separation_settings == model.separation_settings
    for name in {*model.hparams} - model.changeable_hparams:
        assert again.hparams[name] == model.hparams[name], name


@pytest.mark.parametrize(("samples", "overlaps"), [(3000, 2), (CHUNK, 4), (20_011, 2), (20_011, 1)])
@pytest.mark.parametrize("kind", TYPES)
def test_separation_equals_demix(kind: str, samples: int, overlaps: int, tmp_path: Path) -> None:
    theirs, model = example(kind, tmp_path, overlaps=overlaps)
    config = tmp_path / "config.yaml"
    msst_package.assert_separation_equals_demix(model, theirs, kind, config, samples)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's losses, without other packages that those compared here do not need."""
    for package in ("auraloss", "torch_log_wmse"):
        monkeypatch.setitem(sys.modules, package, MagicMock())
    module = importlib.import_module("msst.utils.losses")
    monkeypatch.delitem(sys.modules, module.__name__)
    return module


def assert_same_gradients(model: Any, theirs: Any, names: dict[str, str]) -> None:
    for ours, other in names.items():
        found, expected = model.get_parameter(ours).grad, theirs.get_parameter(other).grad
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max(), ours


def test_loss_and_gradients_of_scnet_agree(losses: Any, tmp_path: Path) -> None:
    theirs, model = example("scnet", tmp_path)
    targets = 0.1 * torch.randn(2, 2, 2, CHUNK)
    loss = model.train().loss(Batch(targets.sum(1), targets))["loss"]
    loss.backward()
    transform = {"n_fft": 512, "hop_length": 128, "win_length": 512, "normalized": True}
    expected = losses.spec_rmse_loss(theirs.train()(targets.sum(1)), targets, transform)
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-4)  # an epsilon differs
    layer = "separation_net.dp_modules"
    names = {
        "encoder.0.mixing.weight": "encoder.0.globalconv.weight",
        "dual_path.layers.0.bins.lstm.weight_hh_l0": f"{layer}.0.lstm_layers.0.weight_hh_l0",
        "dual_path.layers.1.frames.linear.bias": f"{layer}.1.linear_layers.1.bias",
        "decoder.0.mixing.weight": "decoder.0.0.conv.weight",
    }
    assert_same_gradients(model, theirs, names)


@pytest.mark.parametrize("use_mask", [False, True])
def test_gradients_and_running_statistics_of_moises_light_agree(
    use_mask: bool, tmp_path: Path
) -> None:
    model: Any
    theirs, model = example("moises_light", tmp_path, use_mask=use_mask)
    targets = 0.1 * torch.randn(2, 2, 2, CHUNK)
    batch = Batch(targets.sum(1), targets)
    loss = model.train().loss(batch)["loss"]
    loss.backward()
    expected = model.compared(theirs.train()(batch.mixture), batch)["loss"]
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    rope = "bottleneck.rope_blocks.0"
    names = {
        "unet.encoder.0.dense.0.0.weight": "encoder_blocks.0.tdf.fc1.weight",
        "unet.middle.1.0.bands.attentions.0.qkv.weight": (
            f"{rope}.freq_transformer.layers.0.0.to_qkv.weight"
        ),
        "unet.up.1.1.weight": "dec_light_us.0.bn.weight",
        "sources_head.weight": "source_head.weight",
    }
    assert_same_gradients(model, theirs, names)
    ours = model.get_buffer("unet.decoder.0.after.0.1.running_var")
    assert_close(ours, theirs.get_buffer("dec_heavy_blocks.0.split2.0.bn.running_var"))


@pytest.mark.parametrize(("batch_size", "quantile"), [(4, 0.5), (5, 0.95), (1, 0.5)])
def test_masked_loss_and_gradients_of_mdx23c_agree(
    batch_size: int, quantile: float, losses: Any, tmp_path: Path
) -> None:
    theirs, model = example("mdx23c", tmp_path)
    model.loss_function = QuantileMasked(MSE(), quantile)
    targets = 0.1 * torch.randn(batch_size, 2, 2, CHUNK)
    loss = model.train().loss(Batch(targets.sum(1), targets))["loss"]
    loss.backward()
    expected = losses.masked_loss(theirs.train()(targets.sum(1)), targets, quantile)
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    blocks = "encoder_blocks.0.tfc_tdf.blocks.0"
    names = {
        "first.weight": "first_conv.weight",
        "encoder.0.0.before.norm.weight": f"{blocks}.tfc1.0.weight",
        "encoder.0.0.dense.0.layer.weight": f"{blocks}.tdf.2.weight",
        "up.0.layer.weight": "decoder_blocks.0.upscale.conv.2.weight",
        "last.2.weight": "final_conv.2.weight",
    }
    assert_same_gradients(model, theirs, names)
