"""What goes wrong in the middle of an epoch is told: never a wrong sample, never a hang."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from datamodules.batches import StemBatch
from datamodules.errors import DataError
from datamodules.files import audio, mapped_wav
from datamodules.musdb import MUSDBDataModule
from datamodules.stream.ring_loader import RingLoader
from tests.helpers.tracks import write_track


@pytest.fixture(autouse=True)
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and two minutes until a hang is an error."""
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))

    def hang(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five tracks, the stems of each constant: a wrong sample shows."""
    for number in range(5):
        folder = tmp_path / "root" / "train" / f"T{number}"
        folder.mkdir(parents=True)
        for place, stem in enumerate(("vocals", "drums", "bass", "other")):
            level = 1000 * (number + 1) + 100 * place
            soundfile.write(folder / f"{stem}.wav", np.full((44100, 2), level, np.int16), 44100)
    return tmp_path / "root"


class Module(MUSDBDataModule):
    """Ends its workers at once; after an error torch may wait five seconds for each."""

    def __init__(self, root: Path, **arguments: Any) -> None:
        settings = {"segment_seconds": 0.1, "batch_size": 4, "examples_per_epoch": 4000}
        super().__init__(str(root), **{**settings, **arguments})
        self.loaders: list[DataLoader[Any]] = []

    def train_dataloader(self) -> DataLoader[Any]:
        self.loaders.append(super().train_dataloader())
        return self.loaders[-1]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        self.loaders += super().val_dataloader()
        return self.loaders[-2:]

    def end(self) -> None:
        for loader in self.loaders:
            if loader._iterator is not None:
                loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


@pytest.fixture
def module() -> Iterator[Callable[..., Module]]:
    made = []

    def make(root: Path, **arguments: Any) -> Module:
        made.append(Module(root, **arguments))
        made[-1].setup("fit")
        return made[-1]

    yield make
    for each in made:
        each.end()


def assert_right(stems: torch.Tensor) -> None:
    levels = (stems * 2**15).round()
    assert (levels.amin((2, 3)) == levels.amax((2, 3))).all(), "each crop is of one file"
    for place in range(4):
        hundreds = levels[:, place, 0, 0] - 100 * place
        assert ((hundreds % 1000 == 0) & (hundreds >= 1000) & (hundreds <= 5000)).all()


def take_all(batches: Iterable[StemBatch]) -> None:
    for batch in batches:
        assert_right(batch.stems)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 5000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    soundfile.write(path, np.full((44100, 2), 7, np.int16), 44100)


def replace(path: Path) -> None:
    """By another of the same length, as a synchronising program does it."""
    other = path.with_suffix(".new.wav")
    overwrite(other)
    os.replace(other, path)


FAULTS = [remove, truncate, empty, overwrite, replace]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_go_wrong_while_they_are_in_use(
    module: Callable[..., Module],
    root: Path,
    fault: Callable[[Path], None],
    num_workers: int,
) -> None:
    data = module(root, num_workers=num_workers)
    batches = iter(data.train_dataloader())
    for _ in range(5):
        assert_right(next(batches).stems)
    for file in root.glob("train/*/bass.wav"):
        fault(file)
    words = r"bass\.wav: was removed, replaced or changed.*--ckpt_path last"
    with pytest.raises(DataError, match=words):
        take_all(batches)


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_go_wrong_before_they_are_first_used(
    module: Callable[..., Module], root: Path, fault: Callable[[Path], None]
) -> None:
    """A worker maps a file long after the index has noted its length."""
    data = module(root, num_workers=1)
    for file in root.glob("train/*/drums.wav"):
        fault(file)
    with pytest.raises(DataError, match=r"drums\.wav: was removed, replaced or changed"):
        take_all(data.train_dataloader())


@pytest.mark.parametrize("fault", FAULTS)
def test_validation_tracks_that_go_wrong(
    module: Callable[..., Module], root: Path, fault: Callable[[Path], None]
) -> None:
    data = module(root, num_workers=1)
    (track,) = data.valid_tracks
    fault(track.stems["other"])
    for loader in data.val_dataloader():
        with pytest.raises(DataError, match=r"other\.wav: .*(changed|does not exist|is empty)"):
            list(loader)


def test_decoded_files_that_are_cleared_under_way(
    module: Callable[..., Module], root: Path
) -> None:
    for file in root.glob("train/*/*.wav"):
        content, rate = soundfile.read(file, dtype="int16")
        soundfile.write(file.with_suffix(".flac"), content, rate)
        file.unlink()
    data = module(root, num_workers=1)
    batches = iter(data.train_dataloader())
    assert_right(next(batches).stems)
    for file in root.glob("train/*/*.flac"):
        file.unlink()  # its copy is what is read
    for _ in range(20):
        assert_right(next(batches).stems)
    shutil.rmtree(os.environ["STEMLAB_CACHE"])
    with pytest.raises(DataError, match=r"cache/decoded/.*was removed, replaced or changed"):
        list(batches)
    with pytest.raises(DataError, match=r"no tracks|missing|no vocals"):
        module(root)


def test_a_worker_that_is_killed(module: Callable[..., Module], root: Path) -> None:
    loader = module(root, num_workers=2).train_dataloader()
    assert isinstance(loader, RingLoader)
    batches = iter(loader)
    for _ in range(3):
        assert_right(next(batches).stems)

    def kill_and_go_on() -> None:
        # The system tells of the death at once, or the loader when it waits for the worker.
        os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
        take_all(batches)

    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*(killed|exited)"):
        kill_and_go_on()


def test_a_mapped_file_that_is_cut_after_the_check_ends_the_worker_not_the_run(
    module: Callable[..., Module], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window that a check cannot close (see mapped_wav.py): the worker dies, and is named."""

    def check_then_cut(path: Path, expected: object) -> None:
        if path.name == "bass.wav":
            os.truncate(path, 44)

    monkeypatch.setattr(mapped_wav, "check_same", check_then_cut)
    with pytest.raises(RuntimeError, match=r"Bus error.*--ckpt_path last"):
        list(module(root, num_workers=1).train_dataloader())


def test_one_process_of_a_node_prepares_what_the_others_find(
    module: Callable[..., Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_track(tmp_path / "train" / str(number), 1.0, suffix="flac", seed=number)
    rewritten = []
    rewrite = audio.rewrite

    def noting(path: Path, target: Path, subtype: str) -> None:
        rewritten.append(path)
        rewrite(path, target, subtype)

    monkeypatch.setattr(audio, "rewrite", noting)
    first = MUSDBDataModule(root=str(tmp_path), segment_seconds=0.1, batch_size=1)
    first.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    first.trainer.state.fn = TrainerFn.FITTING
    first.prepare_data()
    assert len(rewritten) == 2 * 4
    first.setup("fit")
    other = module(tmp_path)
    assert len(rewritten) == 2 * 4
    assert first.train_tracks == other.train_tracks
