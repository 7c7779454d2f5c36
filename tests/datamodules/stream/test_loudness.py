"""The loudness of seconds, and starts drawn by it: exact chances."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from datamodules.stream import loudness
from datamodules.stream.crops import CropSampler, SamplingConfig
from datamodules.stream.loudness import LoudnessSampler, Powers, measure_loudness
from datamodules.tracks.index import Track, index_tracks
from tests.helpers.tracks import STEMS, write_track

RATE = 10


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def powers(*levels_db: float) -> Powers:
    """One stem with seconds of these levels."""
    return (10 ** (np.array([levels_db]) / 10)).astype(np.float32)


def chances(starts: LoudnessSampler, samples: int, stem: int | None = 0) -> dict[int, float]:
    """Probability of each start: the share of [0, 1) that leads to it."""
    numbers = (np.arange(24_000) + 0.5) / 24_000
    drawn = [starts.start(0, stem, samples, np.array([number])) for number in numbers]
    values, counts = np.unique(drawn, return_counts=True)
    return dict(zip(values.tolist(), (counts / 24_000).tolist(), strict=True))


def by_second(found: dict[int, float]) -> dict[int, float]:
    return {
        second: sum(chance for start, chance in found.items() if start // RATE == second)
        for second in {start // RATE for start in found}
    }


# ---------------------------------------------------------------- classes


def test_each_loudness_class_is_drawn_as_often() -> None:
    """Four quiet seconds, one loud one, one between: three classes, a third each."""
    starts = LoudnessSampler([powers(-50, -49, -51, -50, -10, -30)], [60], RATE, classes=3)
    found = chances(starts, RATE)
    # The sixth second holds one start of a whole crop only: the last one.
    assert sorted(found) == list(range(51))
    expected = dict.fromkeys(range(4), 1 / 12) | {4: 1 / 3, 5: 1 / 3}
    assert by_second(found) == pytest.approx(expected, abs=1e-3)
    assert [found[start] for start in range(40)] == pytest.approx([1 / 120] * 40, abs=1e-4)
    assert [found[start] for start in range(40, 50)] == pytest.approx([1 / 30] * 10, abs=1e-4)


def test_a_short_last_second_holds_fewer_starts_each_as_probable() -> None:
    starts = LoudnessSampler([powers(-20, -20, -20, -50)], [34], RATE, classes=2)
    found = chances(starts, 1)
    assert sorted(found) == list(range(34)), "the very last sample is among them"
    assert [found[start] for start in range(30)] == pytest.approx([1 / 60] * 30, abs=1e-4)
    assert [found[start] for start in range(30, 34)] == pytest.approx([1 / 8] * 4, abs=1e-4)


def test_one_class_and_one_level_leave_all_starts_equally_probable() -> None:
    several = LoudnessSampler([powers(-20, -20, -20)], [30], RATE, classes=5)
    one = LoudnessSampler([powers(-20, -90, -3)], [30], RATE, classes=1)
    for starts in (several, one):
        found = chances(starts, 7)
        assert sorted(found) == list(range(24))
        assert list(found.values()) == pytest.approx([1 / 24] * 24, abs=1e-4)


def test_what_is_silent_is_one_class_whatever_its_level() -> None:
    starts = LoudnessSampler([powers(-300, -70, -90, -10)], [40], RATE, classes=50)
    assert by_second(chances(starts, 1)) == pytest.approx(
        {0: 1 / 6, 1: 1 / 6, 2: 1 / 6, 3: 1 / 2}, abs=1e-3
    )


def test_a_crop_is_as_loud_as_all_of_its_seconds() -> None:
    starts = LoudnessSampler([powers(-np.inf, -20, -np.inf)], [30], RATE)
    assert starts.power(0, 0, 10, 10) == pytest.approx(0.01)
    assert starts.power(0, 0, 5, 10) == pytest.approx(0.005)
    assert starts.power(0, 0, 0, 30) == pytest.approx(0.01 / 3)
    assert starts.power(0, 0, 0, 300) == pytest.approx(0.01 / 3), "padding does not count"
    assert starts.power(0, 0, 20, 10) == 0


# ---------------------------------------------------------------- silence


def test_a_silent_crop_is_drawn_again_up_to_the_last_try() -> None:
    starts = LoudnessSampler([powers(-80, -80, -80, -20)], [40], RATE, -60.0)
    assert starts.start(0, 0, 10, np.array([0.0, 0.5, 0.99, 0.1])) == 30
    assert starts.start(0, 0, 10, np.array([0.0, 0.1, 0.2])) == 6, "the last try counts"
    assert starts.start(0, 0, 10, np.array([0.99, 0.0])) == 30, "loud at once"
    # A crop that touches the loud second is not silent.
    assert starts.start(0, 0, 10, np.array([0.7, 0.0])) == 21


def test_a_stem_that_is_silent_throughout_keeps_its_first_draw() -> None:
    starts = LoudnessSampler([powers(-80, -np.inf, -70)], [30], RATE, -60.0)
    assert starts.start(0, 0, 10, np.array([0.5, 0.9, 0.1])) == 10


def test_stems_from_one_place_are_silent_together_only() -> None:
    table = np.concatenate([powers(-80, -80, -20), powers(-80, -20, -80)])
    starts = LoudnessSampler([table], [30], RATE, -60.0)
    tries = np.array([0.0, 0.5, 0.96])
    assert starts.start(0, None, 10, tries) == 10, "the second stem sounds there"
    assert starts.start(0, 0, 10, tries) == 20


def test_draws_with_loudness_are_pure_and_reach_the_last_sample() -> None:
    random = np.random.default_rng(0)
    table = [(10 ** random.uniform(-9, -1, (2, 6))).astype(np.float32) for _ in range(3)]
    lengths = [np.array([60, 55, 51])]
    rules = SamplingConfig(0.5, avoid_silence_db=-50, silence_tries=4, loudness_classes=3)

    def make() -> CropSampler:
        return CropSampler(0, rules, 2, lengths, (1.0,), table, RATE)

    draw, silent, ends = make(), 0, set()
    forward = [draw.crop((0, index), 10) for index in range(1500)]
    copy = pickle.loads(pickle.dumps(make()))
    for index in reversed(range(0, 1500, 7)):
        again = copy.crop((0, index), 10)
        assert np.array_equal(again.tracks, forward[index].tracks)
        assert np.array_equal(again.starts, forward[index].starts)
    plain = CropSampler(0, SamplingConfig(0.5), 2, lengths)
    for index, (tracks, starts) in enumerate(forward):
        assert np.array_equal(tracks, plain.crop((0, index), 10).tracks), "same order of tracks"
        assert draw.starts is not None
        one_place = len({*tracks.tolist()}) == len({*starts.tolist()}) == 1
        for stem, (track, start) in enumerate(zip(tracks, starts, strict=True)):
            assert 0 <= start <= lengths[0][track] - 10
            ends.add((int(track), int(lengths[0][track] - 10 - start)))
            power = draw.starts.power(int(track), None if one_place else stem, int(start), 10)
            silent += power < 1e-5
    assert {(track, 0) for track in range(3)} <= ends
    # Below a half is silent here; of four tries hardly any fails.
    assert silent < 0.1 * 3000


# ------------------------------------------------------------------ table


def tracks_of(root: Path, **arguments: Any) -> list[Track]:
    return index_tracks(root, "train", progress=False, **arguments)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_table_is_the_mean_square_of_each_second(tmp_path: Path, subtype: str) -> None:
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


def test_table_is_measured_once_and_again_for_a_changed_file(
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
    assert first[1][2].max() == 0, "a stem that is not there is silent"
    again = measure_loudness(tracks, STEMS, False)
    assert len(measured) == 2
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    # Of the same size, a moment later.
    file = root / "train" / "A - 1" / "drums.wav"
    audio, rate = soundfile.read(file, dtype="int16")
    soundfile.write(file, audio // 2, rate, subtype="PCM_16")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1000))
    changed = measure_loudness(tracks_of(root, missing_as_silence=True), STEMS, False)
    assert measured[2:] == ["A - 1"]
    assert changed[0][1] == pytest.approx(first[0][1] / 4, rel=0.01)
    # A table that was spoilt is measured again, and nothing half written stays.
    folder = tmp_path / "cache" / "loudness"
    for spoilt in folder.iterdir():
        spoilt.write_bytes(spoilt.read_bytes()[:50])
    found = measure_loudness(tracks_of(root, missing_as_silence=True), STEMS, False)
    assert len(measured) == 5
    assert all(np.array_equal(*pair) for pair in zip(found, changed, strict=True))
    assert {path.suffix for path in folder.iterdir()} == {".npy"}


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write_track(tmp_path / "data" / "train" / "A - 1", seconds=1.0)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"loudness.*STEMLAB_CACHE"):
        measure_loudness(tracks_of(tmp_path / "data"), STEMS, False)
