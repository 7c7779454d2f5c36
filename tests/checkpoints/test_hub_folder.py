"""Checkpoint folders in the layout of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.base.description import CONFIG, WEIGHTS, CheckpointError
from lightning_modules.checkpoints.hub_folder import read_folder, write_folder
from lightning_modules.checkpoints.loading import from_pretrained, load_separator
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.tools import separate
from tests.helpers.checkpoints import SOURCES, model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(model(), tmp_path / "folder")
    return tmp_path / "folder"


def test_loaded_folder_equals_the_saved_model(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    loaded, original = from_pretrained(folder), model().eval()
    assert not loaded.training
    mixture = torch.randn(1, 2, 20_000)
    with torch.no_grad():
        assert torch.equal(loaded(mixture), original(mixture))
    assert load_separator(str(folder)).sources == SOURCES
    assert (
        json.loads((folder / CONFIG).read_text())["class_path"]
        == "lightning_modules.architectures.unet.UNet"
    )


def test_buffers_of_other_types_and_tensors_that_share_memory(tmp_path: Path) -> None:
    linked = OpenUnmix(SOURCES, **OpenUnmix.tiny)
    linked.statistics_known.fill_(True)
    first, second = (network.get_submodule("fc1") for network in linked.networks.values())
    second.weight = first.weight
    write_folder(linked, tmp_path)
    found = read_folder(tmp_path)["state_dict"]
    assert set(found) == set(linked.state_dict())
    assert all(torch.equal(found[name], value) for name, value in linked.state_dict().items())
    assert found["statistics_known"].dtype == torch.bool


def test_folder_as_pretrained_weights(folder: Path) -> None:
    other = model()
    for weights in other.parameters():
        weights.data.zero_()
    report = load_pretrained(other, folder)
    assert not report.random
    pairs = zip(other.parameters(), model().parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_separate_tool_accepts_a_folder(folder: Path, tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "song.wav", 0.1 * np.random.default_rng(0).normal(size=(9000, 2)), 44100
    )
    words = [str(tmp_path / "song.wav"), "--checkpoint", str(folder), "-o", str(tmp_path / "out")]
    assert separate.main(words) == 0
    assert (tmp_path / "out/song/vocals.wav").is_file()


def corrupt(name: str, content: str | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_text(content)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (corrupt(WEIGHTS, None), "has no model.safetensors"),
        (corrupt(CONFIG, None), "has no config.json"),
        (corrupt(CONFIG, "{"), "config.json: class_path and init_args"),
        (corrupt(CONFIG, "[]"), "config.json: class_path and init_args"),
        (
            corrupt(CONFIG, '{"class_path": 3, "init_args": {}}'),
            r"expected class_path \(a string\)",
        ),
        (corrupt(WEIGHTS, "version https://git-lfs"), "or a Git LFS pointer"),
        (
            corrupt(CONFIG, '{"class_path": "os.system", "init_args": {}}'),
            "os.system from outside this package",
        ),
        (
            corrupt(
                CONFIG,
                '{"class_path": "lightning_modules.architectures.unet.UNet", "init_args": {}}',
            ),
            "does not fit lightning_modules.architectures.unet.UNet",
        ),
    ],
)
def test_invalid_folders_raise(change: Callable[[Path], None], said: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=said):
        from_pretrained(folder)


def test_file_instead_of_a_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt: is neither a folder"):
        from_pretrained(tmp_path / "last.ckpt")


def test_folder_of_checkpoints_is_not_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.ckpt").touch()
    assert separate.main(["song.wav", "--checkpoint", str(tmp_path)]) == 2
    assert "there is no such checkpoint; there are" in capsys.readouterr().err
