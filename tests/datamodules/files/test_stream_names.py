"""Names of the streams of .stem.mp4 files, and the order that follows from them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.files.stream_names import STREAMS, order_streams, read_stream_names
from tests.helpers.stem_files import box, named, stem_box, trak

STEMS = ("vocals", "drums", "bass", "other")
ANOTHER = ("mixture", "vocals", "drums", "bass", "other")
DATA = bytes(8) + "Gesang é".encode()
NO_NAMES: list[list[str]] = [[], [], []]


def names_in(content: bytes, tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "a.stem.mp4"
    path.write_bytes(content)
    return read_stream_names(path)


@pytest.mark.parametrize(
    "title",
    [
        box(b"name", "Gesang é".encode()),
        box(b"name", "Gesang é\0".encode()),
        box(b"\xa9nam", b"\0\x09\0\0", "Gesang é".encode()),
        box(b"meta", bytes(4), box(b"ilst", box(b"\xa9nam", box(b"data", DATA)))),
    ],
    ids=["ffmpeg", "with null", "QuickTime", "iTunes"],
)  # fmt: skip
def test_titles(title: bytes, tmp_path: Path) -> None:
    content = box(b"moov", trak(title), trak(kind=b"vide"), trak(title=b"", handler=b"\x05drums"))
    assert names_in(content, tmp_path) == [
        ["Gesang é", ""],
        ["SoundHandler", "drums"],
        [],
    ]


def test_large_boxes_and_boxes_up_to_the_end(tmp_path: Path) -> None:
    moov = box(b"moov", trak(box(b"name", b"bass")))
    large = (1).to_bytes(4, "big") + b"mdat" + (16 + 50).to_bytes(8, "big") + bytes(50)
    assert names_in(large + moov, tmp_path)[0] == ["bass"]
    assert names_in(large + bytes(4) + moov[4:], tmp_path)[0] == ["bass"]


def test_the_stem_box_names_all_but_the_mixture(tmp_path: Path) -> None:
    content = box(b"moov", *[trak()] * 3, stem_box("Drums", "Vox"))
    assert names_in(content, tmp_path)[2] == ["mixture", "Drums", "Vox"]
    wrong = box(b"moov", *[trak()] * 2, stem_box("Drums", "Vox"))
    assert names_in(wrong, tmp_path)[2] == []


@pytest.mark.parametrize("content", [b"", b"\0", b"RIFF" + bytes(40), bytes(500), b"\xff" * 500])
def test_files_that_are_not_mp4_have_no_names(content: bytes, tmp_path: Path) -> None:
    assert names_in(content, tmp_path) == NO_NAMES


def test_damaged_files_raise_nothing(tmp_path: Path) -> None:
    whole = named(*ANOTHER)[:-8] + stem_box("a", "b", "c", "d")
    generator = random.Random(0)
    for _ in range(300):
        content = bytearray(whole[: generator.randrange(1, len(whole))])
        for _ in range(3):
            content[generator.randrange(len(content))] = generator.randrange(256)
        assert len(names_in(bytes(content), tmp_path)) == 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([ANOTHER, [], []], ANOTHER),
        ([[name.upper() + " " for name in ANOTHER], [], []], ANOTHER),
        ([["SoundHandler"] * 5, ANOTHER, []], ANOTHER),
        ([[""] * 5, ["SoundHandler"] * 5, ["mixture", "Drums", "Bass", "Other", "Vox"]], STREAMS),
        ([["Master", "Vox", "drums", "bass", "other"], [], []], ANOTHER),
        (NO_NAMES, STREAMS),
        ([[""] * 5, ["SoundHandler"] * 5, []], STREAMS),
        ([["The Song's Title"] * 5, [], []], STREAMS),
        ([["drums", "bass", "other", "vocals"], [], []], ("drums", "bass", "other", "vocals")),
        ([[*ANOTHER, "click"], [], []], (*ANOTHER, "")),
        ([["mixture", "vocals", "", "", ""], ["", "", "drums", "bass", "other"], []], ANOTHER),
    ],
)  # fmt: skip
def test_names_decide_where_there_are_any(
    names: list[list[str]], expected: tuple[str, ...]
) -> None:
    order = order_streams(Path("a"), names, STEMS)
    assert order == (expected, "")


def test_stems_of_other_names() -> None:
    names = [["mixture", "Piano", "guitar"], [], []]
    assert order_streams(Path("a"), names, ["guitar", "piano"]).names == names_of(
        "mixture piano guitar"
    )


def names_of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@pytest.mark.parametrize(
    ("names", "expected", "note"),
    [
        # The only stream without a name is the only stem without a stream.
        ([["", "vocals", "drums", "bass", "other"], [], []], ANOTHER, "stream 1 is read as mix"),
        ([["mixture", "?", "drums", "bass", "other"], [], []], ANOTHER, "stream 2 is read as voc"),
        # Names that are no stems, or not all.
        ([["Summe", "Gesang", "Trommeln", "Bass 1", "Rest"], [], []], STREAMS, "Gesang, Trommeln"),
        ([["mixture", "drums", "", "", ""], [], []], STREAMS, "order of MUSDB18 is assumed"),
        # Two sets of names.
        ([ANOTHER, STREAMS, []], ANOTHER, "mixture, drums, bass, other, vocals"),
        ([ANOTHER, [], ["mixture", "Drums", "Bass", "Other", "Vox"]], ANOTHER, "two sets"),
    ],
)  # fmt: skip
def test_assumptions_are_told(names: list[list[str]], expected: tuple[str, ...], note: str) -> None:
    order = order_streams(Path("a"), names, STEMS)
    assert order.names == expected
    assert note in order.note


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        (["mixture", "vocals", "vocals", "bass", "other"], "several of its audio streams are"),
        (["mixture", "Vocals", "VOX", "bass", "other"], "are named vocals (mixture, Vocals, VOX,"),
        (["mixture", "vocals", "", "", ""], "expected names for drums, bass, other too"),
        (["mixture", "other", "Gesang", "?", "bass"], "expected names for vocals, drums too"),
    ],
)  # fmt: skip
def test_contradictions_are_errors(titles: list[str], message: str) -> None:
    with pytest.raises(DataError) as fault:
        order_streams(Path("a.stem.mp4"), [titles, [], []], STEMS)
    assert message in str(fault.value)
    assert str(fault.value).startswith("a.stem.mp4: ")
    assert "-metadata:s:a:0 title=mixture" in str(fault.value)
