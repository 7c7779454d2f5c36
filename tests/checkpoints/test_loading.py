"""Checkpoints: self-contained, safe to load, with clear errors."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.base.description import KEY, CheckpointError, check_same_model
from lightning_modules.checkpoints import loading
from lightning_modules.checkpoints.loading import load_separator, read_checkpoint
from tests.helpers.checkpoints import SOURCES, model, save


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(model(), tmp_path / "last.ckpt")


def test_loaded_separator_equals_the_saved_one(checkpoint: Path) -> None:
    original, loaded = model().eval(), load_separator(checkpoint)
    assert not loaded.training
    assert loaded.sources == SOURCES
    mixture = torch.randn(2, 40_000)
    assert torch.equal(loaded.separate(mixture), original.separate(mixture))


def test_checkpoint_is_plain_data(checkpoint: Path) -> None:
    contents = torch.load(checkpoint, weights_only=True)
    assert contents[KEY]["class_path"] == "lightning_modules.architectures.unet.UNet"
    assert contents[KEY]["init_args"]["channels"] == [4, 8]
    assert "optimizer" not in contents[KEY]["init_args"]


@pytest.mark.parametrize("class_path", ["os.system", "evil_module.Model", "torch.hub.load"])
def test_class_from_outside_is_not_imported(
    class_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = save(model(), tmp_path / "a.ckpt", class_path=class_path)
    with pytest.raises(CheckpointError, match=f"{class_path} from outside this package"):
        load_separator(path)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "inner", ["subprocess.Popen", "lightning_modules.callbacks.lightning_internals.LightningCLI"]
)
def test_class_in_an_argument_is_not_called(tmp_path: Path, inner: str) -> None:
    trap = {"class_path": inner, "init_args": {"args": ["touch", str(tmp_path / "ran")]}}
    for argument in ("mask", "alphas"):
        path = save(model(), tmp_path / "a.ckpt", init_args={"sources": SOURCES, argument: trap})
        with pytest.raises(CheckpointError, match="does not fit"):
            load_separator(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["LightningModule", "Trainer", "shlex.split"])
def test_class_imported_by_a_module_of_this_package_raises(tmp_path: Path, name: str) -> None:
    path = save(
        model(), tmp_path / "a.ckpt", class_path=f"lightning_modules.training.lightning_cli.{name}"
    )
    with pytest.raises(CheckpointError, match=name):
        load_separator(path)


def test_class_that_is_not_a_separator_raises(tmp_path: Path) -> None:
    path = save(
        model(), tmp_path / "a.ckpt", class_path="lightning_modules.architectures.unet.UNetwork"
    )
    with pytest.raises(CheckpointError, match="not a SourceSeparator"):
        load_separator(path)


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "trap.ckpt"
    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"trap\.ckpt"):
        load_separator(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_checkpoint_raises(checkpoint: Path, keep: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: \d+ bytes.*truncated.*another"):
        read_checkpoint(checkpoint)


def test_error_for_a_missing_checkpoint_lists_others(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.ckpt.*there are .*last\.ckpt"):
        read_checkpoint(checkpoint.with_name("best.ckpt"))


def test_error_for_a_checkpoint_that_may_not_be_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(checkpoint))

    monkeypatch.setattr(loading, "load_plain", refuse)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be read \(Permission denied\)"):
        read_checkpoint(checkpoint)


def test_state_dict_alone_raises(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="contains no separator"):
        read_checkpoint(tmp_path / "weights.pt")


def test_error_for_another_model_names_the_differences(checkpoint: Path) -> None:
    contents = read_checkpoint(checkpoint)
    check_same_model(contents, model())
    check_same_model(contents, model(segment_seconds=3.0, overlap=0.5, mask="binary"))
    with pytest.raises(CheckpointError, match=r"channels \(\[4, 8\] in the checkpoint, \[4, 16\]"):
        check_same_model(contents, model(channels=[4, 16]))
    del contents[KEY]["init_args"]["encoder_bias"]  # as if an earlier version lacked it
    check_same_model(contents, model())
    with pytest.raises(CheckpointError, match=r"encoder_bias \(True in the checkpoint, False in"):
        check_same_model(contents, model(encoder_bias=False))
    contents[KEY]["class_path"] = "lightning_modules.other.Other"
    with pytest.raises(CheckpointError, match=r"other\.Other.*unet\.UNet"):
        check_same_model(contents, model())
