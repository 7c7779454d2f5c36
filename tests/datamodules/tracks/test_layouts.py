"""Layouts, file formats and names of stems other than those of MUSDB18."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS, find_entries, subsets_of
from datamodules.tracks.sources import grouping
from tests.helpers.tracks import write_dsd100, write_folder, write_noise


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


# ------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        *(("wav", subtype) for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
    ],
)
def test_random_access_in_each_format(tmp_path: Path, suffix: str, subtype: str) -> None:
    folder = tmp_path / "train" / "A"
    for number, stem in enumerate(STEMS):
        write_noise(folder / f"{stem}.{suffix}", number, subtype)
    (track,) = index_tracks(tmp_path, "train")
    whole = soundfile.read(folder / f"drums.{suffix}", dtype="float32")[0].T
    assert whole.std() > 0.05
    for start in (0, 1, 777, 2500, 3990):
        np.testing.assert_array_equal(
            track.read("drums", start, 500), whole[:, start : start + 500]
        )
    assert track.samples == whole.shape[1] == 4000


def test_formats_can_be_mixed_and_wav_is_preferred(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train" / "A", suffix="flac")
    write_noise(folder / "bass.wav", 9)
    (folder / "vocals.flac").unlink()
    write_noise(folder / "vocals.ogg", 0, "VORBIS")
    (track,) = index_tracks(tmp_path, "train")
    names = [path.name for path in track.stems.values()]
    assert names == ["vocals.ogg", "drums.flac", "bass.wav", "other.flac"]


# ------------------------------------------------------------------- layouts


def test_dsd100_is_recognised(tmp_path: Path) -> None:
    root = write_dsd100(tmp_path / "DSD100")
    assert subsets_of(root) == ["train", "test"]
    train, (test,) = index_tracks(root, "train"), index_tracks(root, "test")
    assert [(track.name, track.subset) for track in train] == [
        ("051 - A", "train"),
        ("052 - B", "train"),
    ]
    assert (test.name, test.subset) == ("C", "test")
    assert test.mixture == root / "Mixtures" / "Test" / "C" / "mixture.wav"
    np.testing.assert_allclose(test.read_mixture(), test.read_stems(STEMS).sum(0), atol=1e-6)
    shutil.rmtree(root / "Mixtures" / "Test")
    (alone,) = index_tracks(root, "test")
    assert alone.mixture is None
    data = MUSDBDataModule(root=str(root), segment_seconds=0.2, batch_size=2, num_workers=0)
    data.setup("fit")
    data.setup("test")
    assert len(data.train_tracks) == len(data.valid_tracks) == len(data.test_tracks) == 1


def test_a_folder_of_tracks_is_a_training_subset(tmp_path: Path) -> None:
    root = tmp_path / "my songs"
    for name in ("B", "A"):
        write_folder(root / name)
    assert subsets_of(root) == ["train"]
    assert [track.name for track in index_tracks(root, "train")] == ["A", "B"]
    with pytest.raises(DataError, match="has no folder 'test'"):
        index_tracks(root, "test")
    with pytest.raises(DataError, match="has no folder 'train'"):
        find_entries(root, "train", stems=("guitar",))


@pytest.mark.parametrize("part", ["test", "Dev"])
def test_a_subset_folder_is_refused_as_root(tmp_path: Path, part: str) -> None:
    write_folder(tmp_path / part / "A")
    with pytest.raises(DataError, match="has no folder 'train'"):
        subsets_of(tmp_path / part)


# --------------------------------------------------------------------- stems


def test_missing_stems_are_silence_if_set(tmp_path: Path) -> None:
    write_folder(tmp_path / "train" / "A", ("vocals", "bass"))
    with pytest.raises(DataError, match=r"no drums\.wav, other\.wav .*missing_as_silence"):
        index_tracks(tmp_path, "train")
    (track,) = index_tracks(tmp_path, "train", missing_as_silence=True)
    assert track.missing == ("drums", "other")
    assert pickle.loads(pickle.dumps(track)) == track
    parts = track.read_stems(STEMS, 3900, 500)
    assert parts.shape == (4, 2, 100)
    assert [bool(part.any()) for part in parts] == [True, False, True, False]
    assert track.read("drums", 5000).shape == (2, 0)
    np.testing.assert_array_equal(track.read_mixture(), track.read_stems(STEMS).sum(0))


def test_a_track_without_any_stem_is_an_error(tmp_path: Path) -> None:
    write_noise(tmp_path / "train" / "A" / "mixture.wav", 0)
    with pytest.raises(DataError, match=r"no vocals\.wav, drums\.wav, .*\(found: mixture"):
        index_tracks(tmp_path, "train", missing_as_silence=True)


def test_stems_with_other_names(tmp_path: Path) -> None:
    stems = ("guitar", "vocals", "piano")
    for name in ("A", "B"):
        write_folder(tmp_path / "train" / name, stems)
    write_noise(tmp_path / "train" / "A" / "drums.wav", 7)
    data = MUSDBDataModule(
        root=str(tmp_path),
        sources={"rest": ["piano", "guitar"], "vocals": ["vocals"]},
        stems=list(stems),
        sample_rate=8000,
        segment_seconds=0.5,
        batch_size=1,
        num_workers=0,
    )
    data.setup("fit")
    raw = next(iter(data.train_dataloader()))
    for number, stem in enumerate(stems):
        expected = data.train_tracks[0].read(stem)
        np.testing.assert_array_equal(raw.stems[0, number].numpy(), expected)
    batch = data.on_after_batch_transfer(raw, 0)
    assert torch.equal(batch.mixture, raw.stems.sum(1))
    assert torch.allclose(batch.targets[0, 0], raw.stems[0, 0] + raw.stems[0, 2])
    assert torch.equal(batch.targets[0, 1], raw.stems[0, 1])
    track = next(iter(data.val_dataloader()[1]))
    assert torch.allclose(track.targets.sum(0), track.mixture, atol=1e-6)


def test_missing_as_silence_in_the_data_module(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_folder(tmp_path / "train" / name, ("vocals", "bass"))
    settings = {"sample_rate": 8000, "segment_seconds": 0.2, "batch_size": 1, "num_workers": 0}
    with pytest.raises(DataError, match="missing_as_silence"):
        MUSDBDataModule(root=str(tmp_path), **settings).setup("fit")  # type: ignore[arg-type]
    data = MUSDBDataModule(root=str(tmp_path), missing_as_silence=True, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    stems = next(iter(data.train_dataloader())).stems[0]
    assert [bool(stem.any()) for stem in stems] == [True, False, True, False]


@pytest.mark.parametrize("stems", [["a", "a"], [], ["vocals", "mixture"]])
def test_invalid_lists_of_stems_are_refused(stems: list[str]) -> None:
    with pytest.raises(DataError, match="list each stem of the data set once"):
        grouping(stems, stems)


@pytest.mark.slow
def test_stems_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules import cli
    from tests.helpers.command_line import CSV, TINY

    stems = ("guitar", "vocals")
    for name in ("A", "B"):
        write_folder(tmp_path / "train" / name, stems)
    monkeypatch.chdir(tmp_path)
    settings = {"root": tmp_path, "stems": "[guitar,vocals]", "sources": "[vocals]"}
    arguments = [f"--data.init_args.{name}={value}" for name, value in settings.items()]
    rate = "--data.init_args.sample_rate=8000"
    base = ["fit", "--config", "unet.yaml", *TINY, *CSV, rate, "--run_dir", "run"]
    assert cli.main([*base, *arguments]) == 0
    os.environ.pop("STEMLAB_RUN_DIR", None)
    from lightning_modules.checkpoints.loading import load_separator

    assert load_separator("run/checkpoints/last.ckpt").sources == ["vocals"]
