"""Names of files and folders."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from datamodules.files import names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vocals.wav", "Vocals.WAV"),
        ("Beyonc\N{LATIN SMALL LETTER E WITH ACUTE}", "beyonce\N{COMBINING ACUTE ACCENT}"),
        (normalize("NFC", "Ärzte"), normalize("NFD", "ärzte").upper()),
        ("Straße", "STRASSE"),
        ("ΟΔΟΣ", "οδος"),  # final sigma
        (normalize("NFC", "Đường Ế"), normalize("NFD", "đường ế")),
        (normalize("NFC", "한국"), normalize("NFD", "한국")),
        (normalize("NFC", "が"), normalize("NFD", "が")),
        ("Ω", "\N{OHM SIGN}"),
        # The order of combining characters above and below a letter does not matter.
        ("a\N{COMBINING DOT BELOW}\N{COMBINING ACUTE ACCENT}", "Á\N{COMBINING DOT BELOW}"),
    ],
)
def test_case_and_unicode_form_do_not_matter(one: str, other: str) -> None:
    assert one != other
    assert names.same_name(one, other)
    assert names.match([one], [other]) == {one: other}
    assert names.groups_of_same([one, other, "else"]) == [sorted([one, other])]


@pytest.mark.parametrize(("one", "other"), [("A", "B"), ("é", "e"), ("A ", "A"), ("a.wav", "a")])
def test_other_differences_matter(one: str, other: str) -> None:
    assert not names.same_name(one, other)
    assert names.match([one], [other]) == {}
    assert names.groups_of_same([one, other, one]) == []


def test_an_equal_name_is_preferred() -> None:
    present = ["VOCALS.wav", "Vocals.wav", "vocals.wav", "DRUMS.wav", "Drums.wav"]
    assert names.match(["vocals.wav", "drums.wav", "bass.wav"], present) == {
        "vocals.wav": "vocals.wav",
        "drums.wav": "DRUMS.wav",
    }


def test_suffixes() -> None:
    assert names.suffix_of(Path("a/b.WAV")) == ".wav"
    assert names.suffix_of("folder.x/song") == ""
    assert names.is_stem_file(Path("A.b.Stem.MP4"))
    assert not names.is_stem_file("A.mp4")
    assert names.without_suffix("A.b.Stem.MP4") == "A.b"
    assert names.without_suffix(Path("x/A.b.FLAC")) == "A.b"


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store", "._vocals.wav", ".hidden", "__MACOSX", "@eaDir", "System Volume Information",
        "Thumbs.db", "Desktop.ini", "lost+found", "LOST.DIR", "$RECYCLE.BIN", "#recycle",
    ],
)  # fmt: skip
def test_system_names(name: str) -> None:
    assert names.is_system_name(name)


@pytest.mark.parametrize("name", ["...Baby One More Time", "Lost", "@home", "#1 Crush", "A"])
def test_titles_are_no_system_names(name: str) -> None:
    assert not names.is_system_name(name)
