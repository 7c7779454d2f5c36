"""Loudness of each second of each stem, and its cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from datamodules.stream import loudness
from datamodules.stream.loudness import Powers, measure_loudness
from datamodules.tracks.index import Track, index_tracks
from tests.helpers.tracks import STEMS, write_track


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def tracks_of(root: Path, **arguments: Any) -> list[Track]:
    return index_tracks(root, "train", progress=False, **arguments)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_loudness_is_the_mean_square_of_each_second(tmp_path: Path, subtype: str) -> None:
    folder = tmp_path / "data" / "train" / "A - 1"
    write_track(folder, seconds=2.4)
    for stem in STEMS:
        audio, rate = soundfile.read(folder / f"{stem}.wav")
        soundfile.write(folder / f"{stem}.wav", audio, rate, subtype=subtype)
    (table,) = measure_loudness(tracks_of(tmp_path / "data"), STEMS, False)
    assert table.shape == (4, 3)
    for row, stem in zip(table, STEMS, strict=True):
        audio, rate = soundfile.read(folder / f"{stem}.wav")
        for second, found in enumerate(row):
            part = audio[second * rate : (second + 1) * rate]
            assert found == pytest.approx(np.mean(part**2), rel=1e-4)


def test_loudness_is_cached_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    for name in ("A - 1", "B - 2"):
        write_track(root / "train" / name, seconds=1.5)
    (root / "train" / "B - 2" / "bass.wav").unlink()
    measured: list[str] = []
    measure = loudness._measure

    def counting(track: Track, stems: Any) -> Powers:
        measured.append(track.name)
        return measure(track, stems)

    monkeypatch.setattr(loudness, "_measure", counting)
    tracks = tracks_of(root, missing_as_silence=True)
    first = measure_loudness(tracks, STEMS, False)
    assert sorted(measured) == ["A - 1", "B - 2"]
    assert first[1][2].max() == 0, "a missing stem is silent"
    again = measure_loudness(tracks, STEMS, False)
    assert len(measured) == 2
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    # Same size, another modification time.
    file = root / "train" / "A - 1" / "drums.wav"
    audio, rate = soundfile.read(file, dtype="int16")
    soundfile.write(file, audio // 2, rate, subtype="PCM_16")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1000))
    changed = measure_loudness(tracks_of(root, missing_as_silence=True), STEMS, False)
    assert measured[2:] == ["A - 1"]
    assert changed[0][1] == pytest.approx(first[0][1] / 4, rel=0.01)
    # A corrupted cache file is measured again, and no partial files remain.
    folder = tmp_path / "cache" / "loudness"
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    found = measure_loudness(tracks_of(root, missing_as_silence=True), STEMS, False)
    assert len(measured) == 5
    assert all(np.array_equal(*pair) for pair in zip(found, changed, strict=True))
    assert {path.suffix for path in folder.iterdir()} == {".npy"}


def test_unwritable_cache_is_reported(tmp_path: Path) -> None:
    write_track(tmp_path / "data" / "train" / "A - 1", seconds=1.0)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"loudness.*STEMLAB_CACHE"):
        measure_loudness(tracks_of(tmp_path / "data"), STEMS, False)
