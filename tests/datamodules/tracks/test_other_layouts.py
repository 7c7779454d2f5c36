"""Lists, folders of files per stem, and folders of tracks with any instruments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.convert import convert
from datamodules.doctor.report import examine
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import find_entries, locate, subsets_of
from tests.helpers.corpora import (
    RATE,
    SAMPLES,
    value_of,
    write_constant,
    write_list,
    write_source_folders,
    write_variable_folders,
)
from tests.helpers.tracks import write_track

TWO = ("vocals", "drums")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def data_module(root: Any, stems: tuple[str, ...] = TWO, **settings: Any) -> MUSDBDataModule:
    data = MUSDBDataModule(
        root if isinstance(root, dict) else str(root),
        sources=list(stems),
        stems=list(stems),
        sample_rate=RATE,
        segment_seconds=0.1,
        batch_size=4,
        num_workers=0,
        **settings,
    )
    data.setup("fit")
    return data


def drawn_values(data: MUSDBDataModule) -> list[set[float]]:
    """For each stem the values in an epoch's examples."""
    batches = [batch.stems.clone() for batch in data.train_dataloader()]
    stems = np.concatenate([batch.numpy() for batch in batches]) * 2**15
    return [set(np.unique(stems[:, stem]).tolist()) for stem in range(stems.shape[1])]


# ------------------------------------------------------- folders of files per stem


def test_folders_of_files_per_stem_train_and_validate(tmp_path: Path) -> None:
    root = write_source_folders(tmp_path / "sources")
    assert subsets_of(root, TWO) == ["train", "valid"]
    data = data_module(root, examples_per_epoch=64, mix_probability=0.1)
    vocals, drums = drawn_values(data)
    assert vocals == {10, 11, 12}
    assert drums == {20, 21}
    first, second = data.valid_tracks
    assert [track.name for track in data.valid_tracks] == ["1 v0", "2 v1"]
    assert (value_of(first.read("vocals")), value_of(first.read("drums"))) == (30, 40)
    assert (value_of(second.read("vocals")), value_of(second.read("drums"))) == (31, 40)
    # The loader's epoch is as long as the stem with most segments: three and two times two.
    assert MUSDBDataModule.examples(data_module(root)) == 2 * 3


def test_folders_per_stem_without_subsets_beside_whole_tracks(tmp_path: Path) -> None:
    whole, extra = tmp_path / "whole", tmp_path / "extra"
    for name, value in (("A", 1), ("B", 2)):
        write_constant(whole / "train" / name / "vocals.wav", value)
        write_constant(whole / "train" / name / "drums.wav", value + 2)
    for number in range(5):
        write_constant(extra / f"vocals/{number}.wav", 100 + number)
    roots = {str(whole): 1.0, str(extra): 1.0}
    data = data_module(roots, examples_per_epoch=64, mix_probability=1.0)
    vocals, drums = drawn_values(data)
    trained = {track.name for track in data.train_tracks if not track.is_loose}
    values = {1.0 if name == "A" else 2.0 for name in trained}
    assert vocals == {100, 101, 102, 103, 104} | values
    assert drums == {value + 2 for value in values}


def test_mistakes_with_folders_per_stem(tmp_path: Path) -> None:
    for stem in TWO:
        write_constant(tmp_path / "root" / stem / "a.wav", 1)
    with pytest.raises(DataError, match="validation needs all stems; add a subset valid"):
        data_module(tmp_path / "root")
    root = write_source_folders(tmp_path / "sources")
    with pytest.raises(DataError, match="mix_probability is 0, and vocals/v0 and 4 others"):
        data_module(root, mix_probability=0.0)


def test_convert_and_doctor_of_folders_per_stem(tmp_path: Path) -> None:
    root = write_source_folders(tmp_path / "sources")
    done = convert(root, tmp_path / "out", stems=TWO)
    assert [(track.subset, track.name) for track in done] == [
        ("train", "1 v0"),
        ("train", "2 v1"),
        ("train", "3 v2"),
        ("valid", "1 v0"),
        ("valid", "2 v1"),
    ]
    assert not any(track.warnings for track in done)
    track = index_tracks(tmp_path / "out", "train", stems=TWO)[0]
    assert track.samples == 3000  # none is cut
    np.testing.assert_array_equal(track.read("vocals")[:, SAMPLES:], 0)
    assert convert(root, tmp_path / "out", stems=TWO)[0].skipped
    report = examine(root, stems=TWO)
    assert report.counted == "5 train and 2 valid tracks"
    assert not [found for found in report.findings if found.severity == "error"]


def test_a_track_with_the_name_of_a_stem_is_a_track(tmp_path: Path) -> None:
    write_track(tmp_path / "train" / "Vocals", seconds=0.1)
    (entry,) = find_entries(tmp_path, "train")
    assert (entry.name, entry.parts) == ("Vocals", None)


# ----------------------------------------------------------------------- lists


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_lists(tmp_path: Path, suffix: str) -> None:
    root = write_list(tmp_path, suffix)
    assert locate(root)[0].name == "list"
    assert subsets_of(root, TWO) == ["train", "valid"]
    data = data_module(root)
    assert [track.name for track in data.train_tracks] == ["A", "B"]
    track = data.train_tracks[0]
    assert value_of(track.read("vocals")) == 101
    assert value_of(track.read("drums")) == 102 + 104
    assert track.stems["vocals"] == tmp_path / "A/vocals.wav"  # not copied
    assert soundfile.info(track.stems["drums"]).subtype == "PCM_16"
    done = convert(root, tmp_path / "out", stems=TWO)
    assert [each.name for each in done] == ["A", "B", "C"]
    converted = index_tracks(tmp_path / "out", "train", stems=TWO)[0]
    assert value_of(converted.read_mixture()) == 101 + 102 + 104
    (note,) = [found for found in examine(root, stems=TWO).findings if "guitar" in found.finding][
        :1
    ]
    assert (note.severity, note.where) == ("note", str(root / "A"))


def test_a_list_of_files_of_single_stems(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)):
        write_constant(tmp_path / f"{name}.wav", value)
    root = tmp_path / "files.csv"
    root.write_text(
        "instrum,path,subset\nvocals,a.wav,train\nvocals,b.wav,train\ndrums,c.wav,train\n"
        f"vocals,{tmp_path / 'd.wav'},valid\ndrums,e.wav,valid\nguitar,none.wav,train\n"
    )
    data = data_module(root, examples_per_epoch=32)
    assert drawn_values(data) == [{1, 2}, {3}]
    (track,) = data.valid_tracks
    assert value_of(track.read_mixture()) == 4 + 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "its first line is 'a,b'; expected the names of columns"),
        ("a.csv", "path,stem\nx.wav\n", "line 2 has 1 columns, the first line 2"),
        ("a.csv", "path,stem,split\nx,y,tset\n", "line or item 2 has the subset 'tset'"),
        ("a.csv", "path,stem\n", "is empty; expected a file or track in each row"),
        ("a.csv", "path,stem\nx.wav,guitar\n", "lists no train tracks .*found: guitar"),
        ("a.csv", "path,stem\nx.wav,drums\n", "x.wav: cannot be read"),
        ("a.json", "[1", "is not JSON"),
        ("a.json", "{}", "must be a list of tracks"),
        ("a.json", '[{"track": "A", "stems": []}]', "item 1 is .*expected a track"),
        ("a.json", '[{"track": "A", "stems": {"vocals": 1}}]', "item 1 is .*expected a track"),
    ],
)
def test_faults_in_lists(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        index_tracks(tmp_path / name, "train")


def test_different_formats_in_a_track_of_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_constant(folder / "v.wav", 1, channels=1)
    write_constant(folder / "k.wav", 2, samples=SAMPLES - 10)
    write_constant(folder / "s.wav", 4)
    root = folder / "a.csv"
    root.write_text("track,stem,path\nA,vocals,v.wav\nA,drums,k.wav\nA,drums,s.wav\n")
    (track,) = index_tracks(root, "train", stems=TWO)
    assert (track.channels, track.samples) == (2, SAMPLES)
    assert value_of(track.read("vocals")) == 1
    assert value_of(track.read("drums", samples=SAMPLES - 10)) == 6
    assert value_of(track.read("drums", SAMPLES - 10)) == 4
    (_,) = convert(root, tmp_path / "out", stems=TWO)
    (copy,) = index_tracks(tmp_path / "out", "train", stems=TWO)
    for stem in TWO:
        np.testing.assert_array_equal(copy.read(stem), track.read(stem))
    write_constant(folder / "s.wav", 4, rate=16000)
    with pytest.raises(DataError, match=r"s\.wav: has 16000 Hz, but v\.wav has 8000 Hz"):
        index_tracks(root, "train", stems=TWO)


def test_sums_that_16_bits_cannot_hold_are_floats(tmp_path: Path) -> None:
    for name in ("k", "s"):
        write_constant(tmp_path / f"{name}.wav", 20000)
    root = tmp_path / "a.csv"
    root.write_text("track,stem,path\nA,drums,k.wav\nA,drums,s.wav\n")
    (track,) = index_tracks(root, "train", stems=["drums"])
    assert value_of(track.read("drums")) == 40000


# ------------------------------------------------------- tracks with any instruments


def test_tracks_with_any_instruments(tmp_path: Path) -> None:
    root = write_variable_folders(tmp_path / "songs")
    stems = ("vocals", "other")
    tracks = index_tracks(f"trackfolder_var:{root}", "train", stems=stems)
    values = [[value_of(track.read(stem)) for stem in stems] for track in tracks]
    assert values == [[1, 2 + 4], [8, 16], [0, 32 + 64]]
    (only_a,) = index_tracks(f"trackfolder_var:{root}", "train", stems=["drums"])
    assert only_a.name == "A"
    data = data_module(f"trackfolder_var:{root}", stems)
    assert len(data.train_tracks) + len(data.valid_tracks) == 3
    with pytest.raises(DataError, match=r"none of its 3 tracks has .* sitar; found: .*accordion"):
        index_tracks(f"trackfolder_var:{root}", "train", stems=["sitar"])


def test_names_of_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'musdb' is no layout; known are list, moisesdb"):
        find_entries(f"musdb:{tmp_path}", "train")
    write_track(tmp_path / "list:a" / "train" / "A", seconds=0.1)  # a folder with a colon
    assert len(find_entries(tmp_path / "list:a", "train")) == 1
