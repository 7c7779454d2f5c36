"""Data sets with a file per instrument: Slakh2100, MoisesDB and MedleyDB."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from datamodules.convert import convert
from datamodules.doctor.report import examine
from datamodules.errors import DataError
from datamodules.tracks.index import index_tracks
from datamodules.tracks.instruments import slug, stem_of
from datamodules.tracks.layouts import STEMS, find_entries, locate, subsets_of
from lightning_modules.tools import score
from tests.helpers.command_line import CSV, TINY, UNET, run
from tests.helpers.corpora import (
    value_of,
    write_medleydb,
    write_moisesdb,
    write_slakh,
)

FOUR = list(STEMS)
SIX = ["vocals", "drums", "bass", "guitar", "piano", "other"]
SHORT = ["--data.init_args.segment_seconds=0.1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def values(root: str | Path, subset: str, stems: Sequence[str]) -> dict[str, list[float]]:
    """Track -> the value of each stem."""
    return {
        track.name: [value_of(track.read(stem, 0, 1000)) for stem in stems]
        for track in index_tracks(root, subset, stems=stems)
    }


# ----------------------------------------------------------------------- Slakh


def test_slakh(tmp_path: Path) -> None:
    root = write_slakh(tmp_path / "slakh")
    assert locate(root)[0].name == "slakh"
    assert subsets_of(root) == ["train", "valid", "test"]
    first = {"Track00001": [0, 2, 4, 1 + 8 + 16], "Track00002": [0, 102, 104, 101 + 108 + 116]}
    assert values(root, "train", FOUR) == first
    assert values(root, "test", SIX) == {"Track01876": [0, 302, 304, 308, 301, 316]}
    assert values(root, "valid", ["bowed_strings", "distortion_guitar"]) == {
        "Track01501": [216, 208]
    }
    (track,) = index_tracks(root, "test")
    assert value_of(track.read_mixture()) == 1531  # the file
    (part,) = index_tracks(root, "test", stems=["piano"])
    assert part.mixture is None  # the file contains more


def test_lists_of_slakh(tmp_path: Path) -> None:
    root = write_slakh(tmp_path / "slakh")
    with pytest.raises(DataError, match=r"redux\.json: does not exist; copy it there"):
        find_entries(f"slakh_redux:{root}", "train")
    actions = {
        "Track00001": {"action": None},
        "Track00002": {"action": "omit", "source_split": "train"},
        "Track00003": {
            "action": "move",
            "source_split": "train",
            "destination_split": "validation",
        },
        "Track01501": {"action": None},
        "Track01876": {"action": None},
    }
    (root / "redux.json").write_text(json.dumps(actions))
    named = f"slakh_redux:{root}"
    assert subsets_of(named) == ["train", "valid", "test"]
    assert list(values(named, "train", FOUR)) == ["Track00001"]
    assert list(values(named, "valid", FOUR)) == ["Track00003", "Track01501"]
    (root / "redux.json").write_text("[]")
    with pytest.raises(DataError, match=r"redux\.json: is not a list of splits"):
        find_entries(named, "train")


# -------------------------------------------------------------------- MoisesDB


def test_moisesdb(tmp_path: Path) -> None:
    root = write_moisesdb(tmp_path / "moisesdb")
    assert locate(root)[0].name == locate(root / "moisesdb_v0.1")[0].name == "moisesdb"
    assert subsets_of(root) == ["train"]
    four = {"a1": [3, 12, 16, 32 + 64 + 128 + 256], "b2": [3, 0, 0, 5], "c3": [0, 7, 0, 9]}
    assert values(root, "train", FOUR) == four
    six = {"a1": [3, 12, 16, 32, 64, 384], "b2": [3, 0, 0, 5, 0, 0], "c3": [0, 7, 0, 0, 0, 9]}
    assert values(root, "train", SIX) == six
    # A drum kit alone: songs without any of these are left out, and the rest is not read.
    assert values(root, "train", ["kick", "snare", "drum_machine"]) == {
        "a1": [4, 8, 0],
        "c3": [0, 0, 7],
    }
    with pytest.raises(DataError, match="has no test tracks; found: train; move tracks"):
        find_entries(root, "test")


def test_moisesdb_in_folders_of_subsets(tmp_path: Path) -> None:
    songs = write_moisesdb(tmp_path / "moisesdb") / "moisesdb_v0.1"
    for name, subset in (("a1", "train"), ("b2", "val"), ("c3", "test")):
        (tmp_path / "sorted" / subset).mkdir(parents=True)
        shutil.move(songs / name, tmp_path / "sorted" / subset / name)
    assert subsets_of(tmp_path / "sorted") == ["train", "valid", "test"]
    assert list(values(tmp_path / "sorted", "valid", FOUR)) == ["b2"]


# -------------------------------------------------------------------- MedleyDB


@pytest.mark.parametrize("beside", [False, True])
def test_medleydb(tmp_path: Path, beside: bool) -> None:
    root = write_medleydb(tmp_path / "MedleyDB", beside)
    assert locate(root)[0].name == "medleydb"
    assert values(root, "train", FOUR) == {"Ann_One": [2, 1, 0, 0], "Bob_Two": [8, 0, 4, 16]}
    raw = {"Ann_One": [201, 101 + 102 + 103, 0, 0], "Bob_Two": [801 + 802, 0, 401, 1601]}
    assert values(f"medleydb_raw:{root}", "train", FOUR) == raw
    assert values(f"medleydb_raw:{root}", "train", ["kick", "snare", "drums"]) == {
        "Ann_One": [101, 102, 103]
    }
    (bleed,) = [found for found in examine(root).findings if found.name == "bleed"]
    assert bleed.where == str(root / "Audio/Bob_Two")


def test_medleydb_without_metadata(tmp_path: Path) -> None:
    root = write_medleydb(tmp_path / "MedleyDB", True)
    shutil.rmtree(root / "Metadata")
    with pytest.raises(DataError, match=r"Ann_One: has no Ann_One_METADATA\.yaml, and neither"):
        find_entries(root, "train")


# ------------------------------------------------------------------------- all


WRITERS = {"slakh": write_slakh, "moisesdb": write_moisesdb, "medleydb": write_medleydb}


@pytest.mark.parametrize("layout", WRITERS)
def test_convert_and_doctor(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "root")
    done = convert(root, tmp_path / "out", stems=SIX)
    assert [track for track in done if track.skipped] == []
    for subset in subsets_of(root):
        assert values(tmp_path / "out", subset, SIX) == values(root, subset, SIX)
    assert all(track.skipped for track in convert(root, tmp_path / "out", stems=SIX))
    assert not [found for found in examine(root, fast=True).findings if found.severity != "note"]
    assert "error" not in {found.severity for found in examine(root, stems=SIX).findings}


@pytest.mark.parametrize(
    ("layout", "file", "text"),
    [
        ("slakh", "train/Track00001/metadata.yaml", "stems: [1"),
        ("slakh", "train/Track00001/metadata.yaml", "stems: {S00: {is_drum: false}}"),
        ("moisesdb", "moisesdb_v0.1/b2/data.json", '{"stems": [{"stemName": "vocals"}]}'),
        ("moisesdb", "moisesdb_v0.1/b2/data.json", "{"),
        ("medleydb", "Audio/Ann_One/Ann_One_METADATA.yaml", "stems: 5"),
    ],
)
def test_faulty_metadata(tmp_path: Path, layout: str, file: str, text: str) -> None:
    root = WRITERS[layout](tmp_path / "root")
    (root / file).write_text(text)
    with pytest.raises(DataError, match=f"{file}: is not the metadata of a track of {layout}"):
        find_entries(root, "train")


def test_a_file_of_the_metadata_that_is_missing(tmp_path: Path) -> None:
    root = write_slakh(tmp_path / "root")
    (root / "train/Track00001/stems/S02.flac").unlink()
    with pytest.raises(DataError, match=r"Track00001/stems/S02\.flac: cannot be read"):
        index_tracks(root, "train")


def test_stems_of_instruments() -> None:
    assert slug("bass synthesizer (moog etc)") == "bass_synthesizer"
    assert slug("contrabass/double bass (bass of instrings)") == "contrabass_double_bass"
    assert slug("Strings (continued)") == "strings"
    assert stem_of(("kick_drum", "drums"), ("drums", "other")) == "drums"
    assert stem_of(("kick_drum", "drums"), ("kick_drum", "drums")) == "kick_drum"
    assert stem_of(("other", "vocals"), ("vocals", "other")) == "vocals"
    assert stem_of(("flute", "wind"), ("vocals", "other")) == "other"
    assert stem_of(("flute", "wind"), ("vocals",)) is None


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_training_with_one_root(tmp_path: Path, layout: str) -> None:
    """A user names the root and nothing else of the data set."""
    root = WRITERS[layout](tmp_path / "root")
    settings = [f"--data.init_args.root={root}", f"--run_dir={tmp_path / 'run'}", *SHORT]
    assert run("fit", *UNET, *TINY, *CSV, *settings) == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", WRITERS)
def test_score_takes_the_same_roots(tmp_path: Path, layout: str) -> None:
    root = WRITERS[layout](tmp_path / "root")
    options = ["--subset", "train", "--window-seconds", "0.1", "--hop-seconds", "0.1"]
    command = ["--oracle", "mixture", f"{layout}:{root}", "-o", str(tmp_path / "scores")]
    assert score.main([*command, *options, "--stems", *SIX]) == 0
    tracks = [entry.name for entry in find_entries(root, "train", SIX)]
    assert sorted(path.stem for path in (tmp_path / "scores/train").iterdir()) == sorted(tracks)
