"""Decoding of .stem.mp4 files whose streams have another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.cache.pcm import decode
from datamodules.files.stream_names import STREAMS
from datamodules.tracks.findings import Finding
from datamodules.tracks.index import check_tracks, index_tracks
from datamodules.tracks.layouts import STEMS, find_entries
from tests.helpers.stem_files import LEVELS, write_stem_file

ANOTHER = ("mixture", "vocals", "drums", "bass", "other")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def findings_about(path: Path) -> list[Finding]:
    entries = find_entries(path.parents[1], "train")
    (checked,) = check_tracks(entries, decode([path], False), STEMS)
    return checked.findings


@pytest.mark.parametrize(
    ("streams", "titles"),
    [(STREAMS, ()), (ANOTHER, ANOTHER), (ANOTHER[::-1], [name.title() for name in ANOTHER[::-1]])],
    ids=["no names", "names", "upper case"],
)
def test_each_stem_is_its_own(
    streams: tuple[str, ...], titles: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "train/A.stem.mp4"
    write_stem_file(path, streams, titles)
    (track,) = index_tracks(tmp_path, "train", progress=False)
    for stem, level in LEVELS.items():
        assert np.std(track.read(stem)) == pytest.approx(level, rel=0.15)
    np.testing.assert_allclose(np.std(track.read("mixture")), 0.0922, rtol=0.15)
    assert findings_about(path) == []


@pytest.mark.slow
def test_an_entry_of_the_wrong_order_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "train/A.stem.mp4"
    write_stem_file(path, ANOTHER, ANOTHER)
    (entry,) = decode([path], False).values()
    former = entry.folder.with_name(entry.folder.name.partition("-")[0])
    entry.folder.rename(former)  # as the entry was called when the order was not read
    (again,) = decode([path], False).values()
    assert again.folder == entry.folder
    assert again.folder != former


@pytest.mark.parametrize(
    ("streams", "told"),
    [
        ((*STREAMS[1:], "mixture"), "stream 5 (vocals) is the sum of the others"),
        (("vocals", "drums", "bass", "other", "vocals"), "is not the sum of the other streams"),
    ],
    ids=["mixture last", "no mixture"],
)
def test_a_mixture_that_is_not_the_sum_is_told(
    streams: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "train/A.stem.mp4"
    write_stem_file(path, streams)
    (finding,) = findings_about(path)
    assert (finding.severity, finding.name) == ("warning", "stream-order")
    assert told in finding.finding
    assert findings_about(path) == [finding]  # from the cache
