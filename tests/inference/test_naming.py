"""Names of output files: templates, long names, collisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.files.find import SongFile
from lightning_modules.inference.encoding import Encoding
from lightning_modules.inference.naming import Naming, check_files, without_stems

OUT = Path("out")


def song(name: str, folder: str = "") -> SongFile:
    return SongFile(Path("music", folder, f"{name}.wav"), folder, name)


def names(template: str | None, name: str, folder: str = "", kind: str = "wav") -> list[str]:
    files = Naming(Encoding(kind), template).files(OUT, song(name, folder), ["vocals", "bass"])
    return [path.as_posix() for path in files]


@pytest.mark.parametrize(
    ("template", "folder", "expected"),
    [
        (None, "", "out/x/vocals.wav"),
        (None, "A/CD 1", "out/A/CD 1/x/vocals.wav"),
        ("{song}/{stem}", "A", "out/x/vocals.wav"),
        ("{song} - {stem}", "A", "out/x - vocals.wav"),
        ("{song} - {stem}.wav", "A", "out/x - vocals.wav"),
        ("{folder}/{song}_{stem}", "A", "out/A/x_vocals.wav"),
        ("{stem}/{folder}/{song}", "", "out/vocals/x.wav"),
        ("{folder} - {song} ({stem})", "A", "out/A - x (vocals).wav"),
        ("{{{song}}} {stem}", "", "out/{x} vocals.wav"),
        ("./{song}-{stem}", "", "out/x-vocals.wav"),
    ],
)
def test_templates(template: str | None, folder: str, expected: str) -> None:
    assert names(template, "x", folder)[0] == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "out/A/x/x.stem.mp4"),
        ("{song}", "out/x.stem.mp4"),
        ("{folder}/{song}", "out/A/x.stem.mp4"),
        ("{song} - {stem}", "out/x - stems.stem.mp4"),
    ],
)
def test_one_file_for_all_stems(template: str | None, expected: str) -> None:
    pytest.importorskip("stempeg")
    assert names(template, "x", "A", "stem.mp4") == [expected]


@pytest.mark.parametrize("name", ["{stem}", "{", "}}", "%s", "{song.x}", "a{0}b"])
def test_braces_in_names_are_kept(name: str) -> None:
    assert names("{song} - {stem}", name)[0] == f"out/{name} - vocals.wav"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{song}", "lacks {stem}"),
        ("{song} {genre} {stem}", "unknown field {genre}"),
        ("{song!r} {stem}", "unknown field {song!r}"),
        ("{song:>9} {stem}", "unknown field {song:>9}"),
        ("{song.path} {stem}", "unknown field {song.path}"),
        ("{} {stem}", "unknown field {}"),
        ("{song {stem}", "the fields are {folder}, {song}, {stem}"),
        ("/{song}/{stem}", "below the folder of -o"),
        ("../{song}/{stem}", "below the folder of -o"),
        ("{song}/../../{stem}", "below the folder of -o"),
        ("{song}/{stem}/", "below the folder of -o"),
    ],
)
def test_refused_templates(template: str, words: str) -> None:
    with pytest.raises(DataError) as error:
        Naming(Encoding(), template)
    assert words in str(error.value)


@pytest.mark.parametrize("character", ["x", "é", "漢", "\udcff"])
@pytest.mark.parametrize("template", [None, "{song} - {stem}", "{song}/{song} {stem}"])
def test_long_names_fit(character: str, template: str | None, tmp_path: Path) -> None:
    """A file of each name can be created, and no character is cut."""
    length = len(character.encode(errors="surrogateescape"))
    name = character * (255 // length)
    files = Naming(Encoding(), template).files(tmp_path, song(name), ["vocals", "no_vocals"])
    assert len({*files}) == 2
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        if character != "\udcff":
            str(path).encode()


TAGS = {"artist": "AC/DC", "album": "Who made who?", "title": "..Intro", "tracknumber": "3/12"}


@pytest.mark.parametrize(
    ("template", "tags", "expected"),
    [
        ("{artist}/{title}/{stem}", TAGS, "out/AC_DC/Intro/vocals.wav"),
        ("{album}/{track} {title} - {stem}", TAGS, "out/Who made who_/03 Intro - vocals.wav"),
        ("{artist}/{title}/{stem}", {}, "out/Unknown artist/x/vocals.wav"),
        ("{album}/{track} {song} {stem}", {}, "out/Unknown album/00 x vocals.wav"),
        ("{artist}/{stem}", {"artist": ".."}, "out/_/vocals.wav"),
        ("{artist}/{stem}", {"artist": "\n{stem}\0"}, "out/_{stem}_/vocals.wav"),
    ],
)
def test_tags_in_names(template: str, tags: dict[str, str], expected: str) -> None:
    naming = Naming(Encoding(), template)
    assert naming.needs_tags
    assert naming.files(OUT, song("x"), ["vocals"], tags)[0].as_posix() == expected
    assert naming.has_song_folder == ("{title}/" in template)
    assert not Naming(Encoding(), "{folder}/{song}/{stem}").needs_tags


def test_long_tags_are_shortened(tmp_path: Path) -> None:
    tags = {"artist": "é" * 200, "title": "t" * 150}
    naming = Naming(Encoding(), "{artist}/{artist} - {title} ({stem})")
    (path,) = naming.files(tmp_path, song("x"), ["vocals"], tags)
    path.parent.mkdir()
    path.touch()
    assert path.name.endswith(" (vocals).wav")


def test_nothing_leaves_the_folder() -> None:
    with pytest.raises(DataError, match="outside of out"):
        names(None, "..")
    assert names(None, ".")[0] == "out/vocals.wav"


@pytest.mark.parametrize(
    ("template", "songs", "words"),
    [
        ("{song} {stem}", [song("x", "A"), song("x", "B")], "both be written to out/x vocals.wav"),
        ("{song}{stem}", [song("a"), song("avocals.wav/")], "folder of another song"),
    ],
)
def test_collisions(template: str, songs: list[SongFile], words: str) -> None:
    naming = Naming(Encoding(), template)
    with pytest.raises(DataError, match=words):
        check_files({each: naming.files(OUT, each, ["vocals", "bass"]) for each in songs})


def test_songs_are_not_replaced(tmp_path: Path) -> None:
    naming = Naming(Encoding(), "{stem}")
    vocals = SongFile(tmp_path / "vocals.wav", "", "vocals")
    files = {vocals: naming.files(tmp_path, vocals, ["vocals"])}
    with pytest.raises(DataError, match="would replace the song"):
        check_files(files)
    assert without_stems(files) == files


def test_stems_of_an_earlier_run_are_no_songs(tmp_path: Path) -> None:
    naming = Naming(Encoding())
    songs = [SongFile(tmp_path / "a.wav", "", "a"), SongFile(tmp_path / "a/vocals.wav", "a", "v")]
    files = {each: naming.files(tmp_path, each, ["vocals"]) for each in songs}
    assert list(without_stems(files)) == songs[:1]
