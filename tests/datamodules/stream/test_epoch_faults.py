"""Faults within an epoch are reported: no wrong samples, no hang."""

from __future__ import annotations

import os
import shutil
import signal
import time
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
from datamodules.stream.workers import WorkerDiedError
from tests.helpers.tracks import write_track


@pytest.fixture(autouse=True)
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An own cache, and a timeout of two minutes."""
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
    """Five tracks whose stems are constant, each at another level, to detect wrong samples."""
    for number in range(5):
        folder = tmp_path / "root" / "train" / f"T{number}"
        folder.mkdir(parents=True)
        for place, stem in enumerate(("vocals", "drums", "bass", "other")):
            level = 1000 * (number + 1) + 100 * place
            soundfile.write(folder / f"{stem}.wav", np.full((44100, 2), level, np.int16), 44100)
    return tmp_path / "root"


class Module(MUSDBDataModule):
    """Ends its workers at once: after an error torch may wait five seconds for each."""

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


def assert_valid(stems: torch.Tensor) -> None:
    levels = (stems * 2**15).round()
    assert (levels.amin((2, 3)) == levels.amax((2, 3))).all(), "each crop comes from one file"
    for place in range(4):
        hundreds = levels[:, place, 0, 0] - 100 * place
        assert ((hundreds % 1000 == 0) & (hundreds >= 1000) & (hundreds <= 5000)).all()


def consume(batches: Iterable[StemBatch]) -> None:
    for batch in batches:
        assert_valid(batch.stems)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 5000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    soundfile.write(path, np.full((44100, 2), 7, np.int16), 44100)


def replace(path: Path) -> None:
    """Replace a file by another of the same length, as a synchronisation program does."""
    other = path.with_suffix(".new.wav")
    overwrite(other)
    os.replace(other, path)


FAULTS = [remove, truncate, empty, overwrite, replace]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_changed_while_in_use_are_reported(
    module: Callable[..., Module],
    root: Path,
    fault: Callable[[Path], None],
    num_workers: int,
) -> None:
    data = module(root, num_workers=num_workers)
    batches = iter(data.train_dataloader())
    for _ in range(5):
        assert_valid(next(batches).stems)
    for file in root.glob("train/*/bass.wav"):
        fault(file)
    # A worker dies if the file is truncated between the check and the read (see mapped_wav.py).
    words = r"(bass\.wav: was removed, replaced or changed|a data file was truncated)"
    with pytest.raises((DataError, WorkerDiedError), match=words) as raised:
        consume(batches)
    assert "--ckpt_path last" in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_files_changed_before_their_first_use_are_reported(
    module: Callable[..., Module], root: Path, fault: Callable[[Path], None]
) -> None:
    """A worker maps a file long after the index has read its header."""
    data = module(root, num_workers=1)
    for file in root.glob("train/*/drums.wav"):
        fault(file)
    with pytest.raises(DataError, match=r"drums\.wav: was removed, replaced or changed"):
        consume(data.train_dataloader())


@pytest.mark.parametrize("fault", FAULTS)
def test_changed_validation_tracks_are_reported(
    module: Callable[..., Module], root: Path, fault: Callable[[Path], None]
) -> None:
    data = module(root, num_workers=1)
    (track,) = data.valid_tracks
    fault(track.stems["other"])
    for loader in data.val_dataloader():
        with pytest.raises(DataError, match=r"other\.wav: .*(changed|does not exist|is empty)"):
            list(loader)


def test_cache_cleared_within_an_epoch_is_reported(
    module: Callable[..., Module], root: Path
) -> None:
    for file in root.glob("train/*/*.wav"):
        content, rate = soundfile.read(file, dtype="int16")
        soundfile.write(file.with_suffix(".flac"), content, rate)
        file.unlink()
    data = module(root, num_workers=1)
    batches = iter(data.train_dataloader())
    assert_valid(next(batches).stems)
    for file in root.glob("train/*/*.flac"):
        file.unlink()  # the decoded copy is read
    for _ in range(20):
        assert_valid(next(batches).stems)
    shutil.rmtree(os.environ["STEMLAB_CACHE"])
    with pytest.raises(DataError, match=r"cache/decoded/.*was removed, replaced or changed"):
        list(batches)
    with pytest.raises(DataError, match=r"no tracks|missing|no vocals"):
        module(root)


@pytest.mark.slow
@pytest.mark.parametrize("handlers_were_lost", [False, True])
def test_killed_worker_is_reported(
    module: Callable[..., Module], root: Path, handlers_were_lost: bool
) -> None:
    if handlers_were_lost:  # as after a run of Lightning
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    loader = module(root, num_workers=2).train_dataloader()
    assert isinstance(loader, RingLoader)
    batches = iter(loader)
    for _ in range(3):
        assert_valid(next(batches).stems)

    worker = loader._iterator._workers[0].pid  # type: ignore[union-attr]
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.2)  # the death is noticed here, but raised only by the loader
    with pytest.raises(WorkerDiedError, match=rf"pid {worker}\) was ended by a signal \(Killed\)"):
        consume(batches)


@pytest.mark.slow
def test_file_truncated_between_check_and_read_is_reported(
    module: Callable[..., Module], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check cannot prevent this (see mapped_wav.py): the worker dies with a bus error."""

    def check_then_cut(path: Path, expected: object) -> None:
        if path.name == "bass.wav":
            os.truncate(path, 44)

    monkeypatch.setattr(mapped_wav, "check_same", check_then_cut)
    with pytest.raises(RuntimeError, match=r"Bus error.*--ckpt_path last"):
        list(module(root, num_workers=1).train_dataloader())


def test_one_process_per_node_decodes_for_all(
    module: Callable[..., Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_track(tmp_path / "train" / str(number), 1.0, suffix="flac", seed=number)
    rewritten = []
    rewrite = audio.rewrite

    def recording(path: Path, target: Path, subtype: str) -> None:
        rewritten.append(path)
        rewrite(path, target, subtype)

    monkeypatch.setattr(audio, "rewrite", recording)
    first = MUSDBDataModule(root=str(tmp_path), segment_seconds=0.1, batch_size=1)
    first.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    first.trainer.state.fn = TrainerFn.FITTING
    first.prepare_data()
    assert len(rewritten) == 2 * 4
    first.setup("fit")
    other = module(tmp_path)
    assert len(rewritten) == 2 * 4
    assert first.train_tracks == other.train_tracks
