"""Names on disk: letter case and Unicode form do not decide, system files are skipped."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from datamodules.errors import DataError
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import STEMS, Entry, find_entries, subsets_of
from datamodules.tracks.splits import split_by_folder, split_validation, without_names
from tests.helpers.tracks import touch, touch_track

ACUTE = "Beyoncé"


def names_in(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def tracks(*names: str) -> list[Track]:
    return [Track(name, "train", {}, None, 1, 1, 1) for name in names]


@pytest.mark.parametrize(
    ("stem", "file"),
    [
        ("mixture", "mixture.WAV"),
        ("mixture", "Mixture.Flac"),
        ("vocals", "VOCALS.wav"),
        ("Vocals", "vocals.ogg"),
        (normalize("NFC", "schläge"), normalize("NFD", "Schläge") + ".wav"),
        (normalize("NFD", "Gesang é"), normalize("NFC", "Gesang é") + ".WAV"),
    ],
)
def test_stems_of_a_track(stem: str, file: str, tmp_path: Path) -> None:
    stems = ["drums"] if stem == "mixture" else ["drums", stem]
    touch(tmp_path / "train/A", "drums.wav", file)
    (entry,) = find_entries(tmp_path, "train", stems)
    assert entry.find(stems)[stem] == (tmp_path / "train/A" / file,)


def test_an_equal_name_and_the_preferred_format_win(tmp_path: Path) -> None:
    touch(tmp_path / "train/A", "Vocals.wav", "vocals.wav", "drums.flac", "DRUMS.WAV", "bass.OGG")
    (entry,) = find_entries(tmp_path, "train")
    files = {stem: path.name for stem, (path,) in entry.find(STEMS).items()}
    assert files == {"vocals": "vocals.wav", "drums": "DRUMS.WAV", "bass": "bass.OGG"}


@pytest.mark.parametrize("folder", ["train", "Train", "TRAIN"])
@pytest.mark.parametrize("track", ["A.stem.mp4", "A.STEM.MP4", "A.Stem.mp4"])
def test_folders_of_subsets_and_stem_files(folder: str, track: str, tmp_path: Path) -> None:
    touch(tmp_path / folder, track)
    (entry,) = find_entries(tmp_path, "train")
    assert (entry.name, entry.is_stem_file) == ("A", True)
    assert entry.path == tmp_path / folder / track


def test_a_folder_replaces_a_stem_file_of_the_same_name(tmp_path: Path) -> None:
    touch_track(tmp_path / "train" / normalize("NFD", ACUTE))
    touch(tmp_path / "train", normalize("NFC", ACUTE).upper() + ".stem.mp4", "B.stem.mp4")
    assert names_in(find_entries(tmp_path, "train")) == ["B", normalize("NFD", ACUTE)]


def test_dsd100_in_lower_case(tmp_path: Path) -> None:
    touch_track(tmp_path / "sources/dev" / normalize("NFC", ACUTE))
    touch(tmp_path / "MIXTURES/DEV" / normalize("NFD", ACUTE), "Mixture.wav")
    (entry,) = find_entries(tmp_path, "train")
    assert entry.find(STEMS)["mixture"][0].name == "Mixture.wav"


@pytest.mark.parametrize("folder", ["valid", "val", "validation", "Validation", "VAL"])
def test_validation_subset(folder: str, tmp_path: Path) -> None:
    touch_track(tmp_path / "train/A")
    touch_track(tmp_path / folder / "V")
    touch_track(tmp_path / "test/T")
    assert subsets_of(tmp_path) == ["train", "valid", "test"]
    (entry,) = find_entries(tmp_path, "valid")
    assert (entry.name, entry.subset) == ("V", "valid")


def test_a_validation_folder_beside_track_folders(tmp_path: Path) -> None:
    touch_track(tmp_path / "songs/A")
    touch_track(tmp_path / "songs/valid/V")
    assert names_in(find_entries(tmp_path / "songs", "train")) == ["A"]
    assert names_in(find_entries(tmp_path / "songs", "valid")) == ["V"]
    touch_track(tmp_path / "songs/valid")  # a song of this name
    assert names_in(find_entries(tmp_path / "songs", "train")) == ["A", "valid"]


def test_a_validation_folder_without_tracks_is_none(tmp_path: Path) -> None:
    touch_track(tmp_path / "train/A")
    touch(tmp_path / "valid", ".gitkeep", "notes.txt")
    assert subsets_of(tmp_path) == ["train"]


def test_system_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    touch_track(tmp_path / "train/A")
    touch(tmp_path / "train/A", "._vocals.wav", ".DS_Store", "Thumbs.db", "desktop.ini")
    touch(tmp_path / "train", "._A.stem.mp4", ".DS_Store")
    for name in ("__MACOSX", "@eaDir", "System Volume Information", "lost+found", ".partial-1"):
        touch_track(tmp_path / "train" / name)
    (tmp_path / "train/empty").mkdir()
    touch(tmp_path / "train/text", "notes.txt")
    (entry,) = find_entries(tmp_path, "train")
    files = {stem: (tmp_path / "train/A" / f"{stem}.wav",) for stem in STEMS}
    assert entry.find(STEMS) == files


def test_a_title_with_dots_is_a_track(tmp_path: Path) -> None:
    touch_track(tmp_path / "train/...And Justice For All")
    assert names_in(find_entries(tmp_path, "train")) == ["...And Justice For All"]


def test_only_folders_without_audio(tmp_path: Path) -> None:
    touch_track(tmp_path / "train/Album/A")
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(DataError, match=r"no tracks in it .*and audio in Album/A/bass.wav"):
        find_entries(tmp_path, "train")


# --------------------------------------------------------------------- split


@pytest.mark.parametrize(
    "name", ["leaf - summerghost", "LEAF - SUMMERGHOST", normalize("NFD", "Leaf - Summerghost")]
)
def test_official_names(name: str) -> None:
    split = split_validation(tracks("a", "b", name))
    assert [track.name for track in split.valid] == [name]


@pytest.mark.parametrize(
    ("given", "on_disk"),
    [
        ("song", "Song"),
        (normalize("NFC", ACUTE), normalize("NFD", ACUTE)),
        (normalize("NFD", ACUTE).upper(), normalize("NFC", ACUTE)),
    ],
)
def test_validation_tracks(given: str, on_disk: str) -> None:
    split = split_validation(tracks("a", on_disk), [given], required=True)
    assert [track.name for track in split.valid] == [on_disk]
    names = [track.name for track in tracks(given)]
    assert without_names(tracks("a", on_disk), names) == tracks("a")


def test_an_equal_validation_track_is_preferred() -> None:
    split = split_validation(tracks("song", "Song"), ["song"], required=True)
    assert split.valid == tracks("song")


def test_training_tracks_with_names_of_validation_tracks_are_left_out() -> None:
    split = split_by_folder(tracks("a", "B"), tracks("b"), Path("root/val"))
    assert (split.train, split.valid) == (tracks("a"), tracks("b"))
    assert split.rule == (
        "validation: the tracks in val; 1 training track with the same name left out"
    )
    with pytest.raises(DataError, match="no track is left for training"):
        split_by_folder(tracks("B"), tracks("b"), Path("root/val"))
