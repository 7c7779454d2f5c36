"""Fine-tuning: weights loaded per source, and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.architectures.crosslinked_open_unmix import CrosslinkedOpenUnmix
from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.architectures.unet import UNet
from lightning_modules.architectures.wave_unet import WaveUNet
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop.fine_tuning import load_pretrained
from tests.helpers.checkpoints import save
from tests.helpers.command_line import CSV, TINY, UNET, run

FOUR = ["vocals", "drums", "bass", "other"]
KINDS: list[tuple[type[SourceSeparator], dict[str, Any]]] = [
    (UNet, {**UNet.tiny}),
    (UNet, {**UNet.tiny, "audio_channels": 1}),
    (WaveUNet, {**WaveUNet.tiny, "output": "direct"}),
    (Demucs, {**Demucs.tiny}),
    (Demucs, {**Demucs.tiny, "decoder_per_source": True}),
    (OpenUnmix, {**OpenUnmix.tiny}),
]


def built(kind: type[SourceSeparator], sources: list[str], seed: int, **arguments: Any) -> Any:
    torch.manual_seed(seed)
    return kind(sources, **arguments).eval()


@pytest.mark.parametrize(("kind", "arguments"), KINDS)
@pytest.mark.parametrize("sources", [["vocals", "other"], ["guitar", *FOUR[::-1], "piano"]])
def test_sources_keep_the_weights_of_their_namesakes(
    kind: type[SourceSeparator], arguments: dict[str, Any], sources: list[str], tmp_path: Path
) -> None:
    trained = built(kind, FOUR, 0, **arguments)
    path = save(trained, tmp_path / "trained.ckpt")
    model = built(kind, sources, 1, **arguments)
    report = load_pretrained(model, path)
    mixture = 0.1 * torch.randn(1, model.audio_channels, 9000)
    with torch.no_grad():
        found, expected = model(mixture), trained(mixture)
    for index, source in enumerate(sources):
        if source in FOUR:
            assert torch.allclose(found[:, index], expected[:, FOUR.index(source)], atol=1e-6)
    assert report.sources == [source for source in sources if source in FOUR]
    assert report.new == [source for source in sources if source not in FOUR]
    text = str(report)
    assert str(path) in text
    assert ("initialised at random: guitar, piano" in text) == ("guitar" in sources)
    names = {*report.complete, *report.by_source, *report.random}
    assert names == set(model.state_dict()) - model.loss_buffers


def test_last_source_without_weights(tmp_path: Path) -> None:
    """With a difference output the last source has none: two heads here and three there."""
    trained = built(WaveUNet, FOUR, 0, **WaveUNet.tiny)
    path = save(trained, tmp_path / "trained.ckpt")
    model = built(WaveUNet, ["bass", "guitar", "rest"], 1, **WaveUNet.tiny)
    report = load_pretrained(model, path)
    assert report.by_source
    assert not report.random
    mixture = 0.1 * torch.randn(1, 2, 9000)
    with torch.no_grad():
        assert torch.allclose(model(mixture)[:, 0], trained(mixture)[:, 2], atol=1e-6)


def test_all_weights_are_loaded_for_the_same_sources(tmp_path: Path) -> None:
    trained = built(UNet, FOUR, 0, **UNet.tiny)
    model = built(UNet, FOUR, 1, **UNet.tiny)
    report = load_pretrained(model, save(trained, tmp_path / "trained.ckpt"))
    assert not report.random
    assert not report.by_source
    for name, weights in trained.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name])


def test_weights_that_do_not_match_are_reported(tmp_path: Path) -> None:
    """The dense layer after the links has all sources as its input, so its size differs."""
    trained = built(CrosslinkedOpenUnmix, FOUR, 0, **OpenUnmix.tiny)
    model = built(CrosslinkedOpenUnmix, ["vocals", "other"], 1, **OpenUnmix.tiny)
    report = load_pretrained(model, save(trained, tmp_path / "trained.ckpt"))
    assert report.random == ["networks.vocals.fc2.weight", "networks.other.fc2.weight"]
    assert "initialised at random: networks.vocals.fc2.weight" in str(report)


def test_published_formats(tmp_path: Path) -> None:
    unmix = built(OpenUnmix, FOUR, 0, **OpenUnmix.tiny)
    folder = tmp_path / "umx"
    folder.mkdir()
    for source, network in unmix.networks.items():
        torch.save(network.state_dict(), folder / f"{source}-0123abcd.pth")
    model = built(OpenUnmix, ["drums", "rest"], 1, **{**OpenUnmix.tiny, "hop_length": 128})
    report = load_pretrained(model, folder)
    assert report.new == ["rest"]
    for name, weights in unmix.networks["drums"].state_dict().items():
        assert torch.equal(weights, model.networks["drums"].state_dict()[name])

    package_order = ["drums", "bass", "other", "vocals"]
    demucs = built(Demucs, package_order, 0, **Demucs.tiny)
    torch.save(demucs.network.state_dict(), tmp_path / "demucs.th")
    model = built(Demucs, ["vocals", "rest"], 1, **Demucs.tiny, resample=True)
    load_pretrained(model, tmp_path / "demucs.th")
    mixture = 0.1 * torch.randn(1, 2, 9000)
    demucs = built(Demucs, package_order, 0, **Demucs.tiny, resample=True)
    with torch.no_grad():
        assert torch.allclose(model(mixture)[:, 0], demucs(mixture)[:, 3], atol=1e-6)


def test_invalid_weights_raise(tmp_path: Path) -> None:
    path = save(built(UNet, FOUR, 0, **UNet.tiny), tmp_path / "unet.ckpt")
    with pytest.raises(CheckpointError, match=r"are of a UNet, but the config builds a Demucs"):
        load_pretrained(built(Demucs, FOUR, 0, **Demucs.tiny), path)
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: there is no such checkpoint"):
        load_pretrained(built(UNet, FOUR, 0, **UNet.tiny), tmp_path / "gone.ckpt")
    (tmp_path / "text.th").write_text("not weights")
    with pytest.raises(CheckpointError, match=r"text\.th: cannot be read as weights"):
        load_pretrained(built(Demucs, FOUR, 0, **Demucs.tiny), tmp_path / "text.th")
    waves = save(built(WaveUNet, FOUR, 0, levels=2, filters=3), tmp_path / "waves.ckpt")
    model = built(WaveUNet, FOUR, 0, levels=3, filters=4, down_kernel=7, up_kernel=3)
    with pytest.raises(CheckpointError, match=r"size; they have down_kernel 15 \(here 7\)"):
        load_pretrained(model, waves)


def test_weights_of_the_loss_come_from_the_config(tmp_path: Path) -> None:
    alphas = {"vocals": 0.75, "other": 0.25}
    model = built(UNet, ["vocals", "other"], 1, **UNet.tiny, alphas=alphas)
    for number, sources in enumerate((FOUR, model.sources)):
        trained = save(built(UNet, sources, 0, **UNet.tiny), tmp_path / f"{number}.ckpt")
        load_pretrained(model, trained)
        assert model.source_weights.tolist() == [0.75, 0.25]


@pytest.mark.slow
def test_fit_with_pretrained_weights(
    tmp_path: Path, musdb_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = dict(word.split("=", 1) for word in TINY if word.startswith("--model.init_args."))
    words = [*UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}"]
    assert run("fit", *words, "--run_dir", "first") == 0
    assert arguments  # the tiny model of the command line
    first = "first/checkpoints/last.ckpt"
    still = ["--model.init_args.optimizer.init_args.lr=1e-30", "--run_dir", "second"]
    two = "--data.init_args.sources={vocals: [vocals], accompaniment: [drums, bass, other]}"
    pretrained = f"--model.init_args.pretrained={first}"
    capsys.readouterr()
    assert run("fit", *words, two, pretrained, *still) == 0
    text = capsys.readouterr().out
    assert f"completely loaded from {first}" in text
    assert "initialised at random: accompaniment" in text
    paths = [Path(name, "checkpoints/last.ckpt") for name in ("first", "second")]
    before, after = (dict(load_separator(path).named_parameters()) for path in paths)
    same = [name for name in before if name.startswith("network.encoder")]
    assert same
    assert all(torch.equal(before[name], after[name]) for name in same)
    # Pretrained weights are not part of the model's description.
    assert "pretrained" not in load_separator(paths[1]).hparams
    assert run("fit", *words, two, f"{pretrained}.gone", *still[:1], "--run_dir", "third") == 2
    assert "there is no such checkpoint" in capsys.readouterr().err
