"""Checkpoint files: atomic writes, and search for the latest readable one."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.base.description import KEY, CheckpointError
from lightning_modules.checkpoints.files import (
    AtomicCheckpointIO,
    latest_readable_checkpoint,
    link_best,
    remove_partial,
)


def checkpoint(number: int, values: int = 1000) -> dict[str, Any]:
    description = {"class_path": "lightning_modules.architectures.unet.UNet", "init_args": {}}
    weights = {"weights": torch.full((values,), float(number))}
    return {KEY: description, "number": number, "state_dict": weights}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def io() -> AtomicCheckpointIO:
    return AtomicCheckpointIO()


def test_replaced_last_is_kept_as_previous(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for number in range(3):
        io.save_checkpoint(checkpoint(number), folder / "last.ckpt")
        io.save_checkpoint(checkpoint(number), str(folder / "epoch_000.ckpt"))
    assert names(folder) == ["epoch_000.ckpt", "last.ckpt", "previous.ckpt"]
    assert torch.load(folder / "last.ckpt")["number"] == 2
    assert torch.load(folder / "previous.ckpt")["number"] == 1
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint(checkpoint(0), folder / "last.ckpt", storage_options={"a": 1})


@pytest.fixture(params=["quota", "disk"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that has no room for a file of a megabyte."""
    if request.param == "quota":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_the_older_checkpoint(io: AtomicCheckpointIO, small: Path) -> None:
    last = small / "last.ckpt"
    io.save_checkpoint(checkpoint(1), last)
    with pytest.raises(CheckpointError) as error:
        io.save_checkpoint(checkpoint(2, values=1_000_000), last)
    message = str(error.value)
    assert str(last) in message
    assert "No space left" in message or "too large" in message
    assert "MB are free on the disk" in message
    assert "older checkpoints are intact" in message
    assert "--ckpt_path last" in message
    assert names(small) == ["last.ckpt"]
    assert latest_readable_checkpoint(small)[1]["number"] == 1


def test_folder_that_cannot_be_created(io: AtomicCheckpointIO, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        io.save_checkpoint(checkpoint(1), tmp_path / "checkpoints" / "last.ckpt")


def test_partial_files_are_removed(tmp_path: Path) -> None:
    for name in ("last.ckpt", "last.ckpt.partial", "best.ckpt.partial", "other.partial"):
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert names(tmp_path) == ["last.ckpt", "other.partial"]
    remove_partial(tmp_path / "nowhere")


def test_best_is_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        path = tmp_path / f"{number}.ckpt"
        path.write_text(str(number))
        link_best(path)
        assert (tmp_path / "best.ckpt").read_text() == str(number)
        assert (tmp_path / "best.ckpt").is_symlink()

    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    link_best(tmp_path / "0.ckpt")
    assert (tmp_path / "best.ckpt").read_text() == "0"
    assert not (tmp_path / "best.ckpt").is_symlink()
    assert (tmp_path / "1.ckpt").read_text() == "1"


# ------------------------------------------------------------- latest readable


@pytest.fixture
def folder(io: AtomicCheckpointIO, tmp_path: Path) -> Path:
    """Checkpoints 0, 1 (``previous``), 2 and 3 (``last``), in the order of writing."""
    for number, name in enumerate(("epoch_000", "last", "epoch_001", "last")):
        io.save_checkpoint(checkpoint(number), tmp_path / f"{name}.ckpt")
        path = tmp_path / f"{name}.ckpt"
        os.utime(path, ns=(number, number))
    link_best(tmp_path / "epoch_000.ckpt")
    return tmp_path


def corrupt(path: Path) -> None:
    """Change one bit of the weights."""
    content = bytearray(path.read_bytes())
    position = content.index(torch.load(path)["state_dict"]["weights"].numpy().tobytes())
    content[position + 100] ^= 1
    stamp = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))


def test_latest_readable_checkpoint_is_found(folder: Path) -> None:
    assert latest_readable_checkpoint(folder)[0] == folder / "last.ckpt"
    corrupt(folder / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last.ckpt: .*checksum.*Resuming from .*epoch_001"):
        assert latest_readable_checkpoint(folder)[1]["number"] == 2
    (folder / "epoch_001.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"epoch_001.ckpt: 0 bytes.*Resuming from .*previous"):
        assert latest_readable_checkpoint(folder)[1]["number"] == 1


def test_interrupted_rename_leaves_the_previous_checkpoint(folder: Path) -> None:
    (folder / "last.ckpt").unlink()
    (folder / "epoch_001.ckpt").unlink()
    with pytest.warns(UserWarning, match="last.ckpt is missing. Resuming from .*previous"):
        assert latest_readable_checkpoint(folder)[1]["number"] == 1


def test_no_checkpoint_and_no_readable_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no last\.ckpt; train first"):
        latest_readable_checkpoint(folder / "nowhere")
    for path in folder.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"last.ckpt: 100 bytes.*epoch_000.ckpt: 100 bytes"):
        latest_readable_checkpoint(folder)
