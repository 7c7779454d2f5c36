"""Roots of data sets: the split, and what is printed about it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.roots import DatasetRoots
from datamodules.tracks.sources import SourceGrouping, grouping
from tests.helpers.tracks import write_folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train/A", "train/B", "valid/V", "test/T"):
        write_folder(tmp_path / "data" / name)
    return tmp_path / "data"


def split(
    root: Path | dict[str, float], validation_tracks: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Names of training and validation tracks."""
    given = root if isinstance(root, dict) else str(root)
    stems = SourceGrouping(grouping(["vocals"]), 2)
    roots = DatasetRoots(given, False, stems, False, False, validation_tracks)
    train, valid = roots.fit_tracks(progress=False)
    names = [track.name for tracks in train for track in tracks]
    return names, [track.name for track in valid]


def test_a_validation_folder_validates(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert split(root) == (["A", "B"], ["V"])
    assert caplog.messages == [
        f"2 training and 1 validation track in {root} (validation: the tracks in valid)"
    ]


def test_validation_tracks_replace_the_folder(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert split(root, ["a"]) == (["B"], ["A"])
    assert "valid is not used, because validation_tracks is set" in caplog.text


def test_validation_tracks_in_the_folder(root: Path) -> None:
    with pytest.raises(DataError, match=r"unknown tracks \('v'\).* remove it for the default spl"):
        split(root, ["v"])


def test_copies_of_validation_tracks_are_not_trained_on(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root / "valid/V", root / "train/v")
    with caplog.at_level("INFO"):
        assert split(root) == (["A", "B"], ["V"])
    assert "1 training track with the same name left out" in caplog.text


def test_subsets_of_other_roots_are_told(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    shutil.copytree(root, other)
    shutil.copytree(root / "valid/V", other / "train/v")
    with caplog.at_level("INFO"):
        assert split({str(root): 1.0, str(other): 1.0}) == (["A", "B", "A", "B"], ["V"])
    assert (
        f"2 more training tracks in {other} (1 left out, named as validation tracks; valid and "
        "test not used, only those of the first root)"
    ) in caplog.text


def test_unread_audio_is_told_once_for_each_kind(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/__MACOSX", "train/@eaDir", "train/System Volume Information", "train/E"):
        (root / name).mkdir()
    for name in ("dev/X", "train/Album/N"):
        write_folder(root / name)
    for name in ("x", "y", "A/guitar"):
        shutil.copy(root / "train/A/bass.wav", root / f"train/{name}.wav")
    with caplog.at_level("INFO"):
        assert split(root) == (["A", "B"], ["V"])
    notes = caplog.messages[-1].splitlines()
    assert [line.partition(":")[0] for line in notes] == ["note", "note", "note", notes[-1]]
    assert f"{root}/dev: holds audio" in notes[0]
    assert "(1 more of this kind)" in notes[0]
    assert sum("(2 more of this kind)" in line for line in notes) == 1
    assert notes[-1] == "python -m datamodules.doctor ROOT lists all of them"


def test_songs_of_other_roots_are_recognised_by_letters_and_digits(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    (root / "valid/V").rename(root / "valid/A Band - The Song")
    write_folder(root / "test/Ann - One")
    for name in ("ABand_TheSong", "Ann_One", "Ann_Two"):
        write_folder(other / "train" / name)
    with caplog.at_level("INFO"):
        train, valid = split({str(root): 1.0, str(other): 1.0})
    assert (train[2:], valid) == (["Ann_One", "Ann_Two"], ["A Band - The Song"])
    (line,) = [line for line in caplog.messages[-1].splitlines() if "Ann_One" in line]
    assert line.startswith(f"warning: {other}/Ann_One: is trained on, and has the name of test/Ann")
    assert f"{root} --others {other} compares the audio" in line
