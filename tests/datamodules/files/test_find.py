"""Songs in folders and patterns, and their names."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.files.find import SUFFIXES, find_audio_files, song_name

# A small file that soundfile reads whatever its suffix is.
SONG = "song.wav"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / SONG, np.zeros(100), 8000)
    (tmp_path / "music").mkdir()
    monkeypatch.chdir(tmp_path / "music")


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"../{SONG}" if Path.cwd().name == "music" else SONG, name)


def places(*inputs: str, output: str | None = None) -> list[str]:
    """Folder and name of the songs that are found, with no fault."""
    found = find_audio_files(inputs, Path(output) if output else None)
    assert not found.faults
    return [f"{song.folder}/{song.name}" for song in found.songs]


def test_folders_are_searched_with_all_suffixes() -> None:
    put(*(f"{suffix[1:]}{suffix.upper()}" for suffix in SUFFIXES))
    assert places(".") == sorted(f"/{suffix[1:]}" for suffix in SUFFIXES)
    assert {".webm", ".wma", ".oga", ".mkv", ".caf", ".wv", ".au", ".aifc", ".mp2"} < {*SUFFIXES}


def test_folders_are_kept() -> None:
    put("A/01 Intro.wav", "B/01 Intro.wav", "B/CD 2/x.flac", "top.wav")
    expected = ["/top", "A/01 Intro", "B/01 Intro", "B/CD 2/x"]
    assert sorted(places(".")) == expected
    assert sorted(places("../music")) == expected
    assert sorted(places("**/*")) == expected
    assert places("*/*.wav") == ["A/01 Intro", "B/01 Intro"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["A/x.wav", "B/y.wav"], ["/x", "/y"]),
        (["A/x.wav", "B/x.wav", "B/y.wav"], ["A/x", "B/x", "/y"]),
        (["A", "B"], ["A/x", "B/x", "/y"]),
        (["A/CD/x.wav", "B/CD/x.wav"], ["A/CD/x", "B/CD/x"]),
        (["B/y.wav", "B/y.flac"], ["/y.wav", "/y.flac"]),
        (["B/y.wav", "B/y.stem.mp4", "B/y.mp4"], ["/y.wav", "/y.stem.mp4", "/y.mp4"]),
        (["A/x.wav", "./A/../A/x.wav", "A/*.wav", "link/x.wav"], ["/x"]),
        (["t/A/mixture.wav", "t/B/Mixture.WAV"], ["/A", "/B"]),
        (["t"], ["/A", "/B"]),
    ],
)
def test_names_are_unique(inputs: list[str], expected: list[str]) -> None:
    put("A/x.wav", "B/x.wav", "B/y.wav", "t/A/mixture.wav", "t/B/Mixture.WAV", "t/A/bass.wav")
    os.symlink("A", "link")
    for name in inputs:
        if not Path(name).exists() and "*" not in name:
            put(name)
    assert places(*inputs) == expected


def test_what_systems_leave_is_passed_over_and_other_files_are_named() -> None:
    put("A/x.wav", "A/._x.wav", "A/.DS_Store", "A/Thumbs.db", "desktop.ini")
    put("@eaDir/y.wav", "__MACOSX/z.wav", "System Volume Information/a.wav", ".hidden/b.wav")
    put("A/cover.jpg", "A/x.wav.part")
    found = find_audio_files(["."])
    assert [song.name for song in found.songs] == ["x"]
    (note,) = found.notes
    assert "A/cover.jpg, A/x.wav.part (2 in total)" in note
    assert places("**/*.wav") == ["A/x"]
    assert places(".hidden") == ["/b"], "a hidden folder that is named"


def test_names_that_begin_with_dots_are_found() -> None:
    put("..wav", "...wav", "...Baby One More Time.wav", ".hidden.wav")
    assert places(".") == ["/...Baby One More Time", "/...wav", "/..wav"]


def test_links_that_lead_back_up() -> None:
    put("A/x.wav", "B/y.wav")
    os.symlink("..", "A/up")
    os.symlink("gone.wav", "B/broken.wav")
    assert places(".") == ["A/x", "B/y"]
    assert places("**/*.wav") == ["A/x", "B/y"]
    assert "B/broken.wav" in find_audio_files(["."]).notes[0]


def test_the_output_folder_is_not_searched() -> None:
    put("x.wav", "separated/x/vocals.wav")
    assert places(".", output="separated") == ["/x"]
    assert places("**/*.wav", output="separated") == ["/x"]
    assert places("separated", output="separated") == ["x/vocals"], "if it is not named"


def test_all_bad_files_are_named_and_the_good_ones_found() -> None:
    put("a.wav", "c.wav")
    Path("b.wav").write_text("dear diary")
    Path("empty.wav").touch()
    Path("void").mkdir()
    found = find_audio_files([".", "gone.wav", "*.mp3", "void"])
    assert [song.name for song in found.songs] == ["a", "c"]
    starts = sorted(fault.partition(":")[0] for fault in found.faults)
    assert starts == ["*.mp3", "b.wav", "empty.wav", "gone.wav", "void"]


def test_patterns() -> None:
    put("live [2020]/x.wav", "live [2020]/y.WAV", "z.xyz")
    assert places("live [2020]/x.wav") == ["/x"], "the name of a file is no pattern"
    assert places("live [2020]/*.wav") == ["/x", "/y"], "letter case of suffixes does not matter"
    assert places("*.xyz") == ["/z.xyz"], "a suffix that is asked for"
    assert places("live*") == ["live [2020]/x", "live [2020]/y"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_either_form(form: str) -> None:
    put(unicodedata.normalize("NFC", "Café.wav"))
    assert len(places(unicodedata.normalize(form, "Café.wav"))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.wav", "x"),
        ("x.STEM.MP4", "x"),
        ("x.tar.flac", "x.tar"),
        ("Mr. Song", "Mr. Song"),
        ("x.Wav", "x"),
        ("..wav", "..wav"),
        ("...wav", "...wav"),
        (".wav", ".wav"),
        (".stem.mp4", ".stem.mp4"),
        ("dots...wav", "dots.."),
        (" .wav", " "),
        ("con.wav", "con"),
        ("a\nb.wav", "a\nb"),
        ("-x.wav", "-x"),
        ("\udcff.wav", "\udcff"),
    ],
)
def test_name_of_a_song(name: str, expected: str) -> None:
    assert song_name(Path("album", name)) == expected
