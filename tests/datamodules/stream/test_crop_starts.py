"""Starts of crops drawn by loudness: exact probabilities."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from datamodules.stream.crop_starts import LoudnessSampler
from datamodules.stream.crops import CropSampler, SamplingConfig
from datamodules.stream.loudness import Powers

RATE = 10


def powers(*levels_db: float) -> Powers:
    """Loudness of one stem whose seconds have these levels."""
    return (10 ** (np.array([levels_db]) / 10)).astype(np.float32)


def probabilities(starts: LoudnessSampler, samples: int, stem: int | None = 0) -> dict[int, float]:
    """Probability of each start: the part of [0, 1) that leads to it."""
    numbers = (np.arange(24_000) + 0.5) / 24_000
    drawn = [starts.start(0, stem, samples, np.array([number])) for number in numbers]
    values, counts = np.unique(drawn, return_counts=True)
    return dict(zip(values.tolist(), (counts / 24_000).tolist(), strict=True))


def by_second(found: dict[int, float]) -> dict[int, float]:
    return {
        second: sum(probability for start, probability in found.items() if start // RATE == second)
        for second in {start // RATE for start in found}
    }


# ---------------------------------------------------------------- classes


def test_loudness_classes_are_drawn_equally_often() -> None:
    """Four quiet seconds, a loud one and one in between: three classes of probability 1/3."""
    starts = LoudnessSampler([powers(-50, -49, -51, -50, -10, -30)], [60], RATE, classes=3)
    found = probabilities(starts, RATE)
    # The sixth second holds a single start, the last one.
    assert sorted(found) == list(range(51))
    expected = dict.fromkeys(range(4), 1 / 12) | {4: 1 / 3, 5: 1 / 3}
    assert by_second(found) == pytest.approx(expected, abs=1e-3)
    assert [found[start] for start in range(40)] == pytest.approx([1 / 120] * 40, abs=1e-4)
    assert [found[start] for start in range(40, 50)] == pytest.approx([1 / 30] * 10, abs=1e-4)


def test_starts_of_a_short_last_second_have_the_same_probability_each() -> None:
    starts = LoudnessSampler([powers(-20, -20, -20, -50)], [34], RATE, classes=2)
    found = probabilities(starts, 1)
    assert sorted(found) == list(range(34)), "up to the last sample"
    assert [found[start] for start in range(30)] == pytest.approx([1 / 60] * 30, abs=1e-4)
    assert [found[start] for start in range(30, 34)] == pytest.approx([1 / 8] * 4, abs=1e-4)


def test_one_class_or_one_level_gives_uniform_starts() -> None:
    several = LoudnessSampler([powers(-20, -20, -20)], [30], RATE, classes=5)
    one = LoudnessSampler([powers(-20, -90, -3)], [30], RATE, classes=1)
    for starts in (several, one):
        found = probabilities(starts, 7)
        assert sorted(found) == list(range(24))
        assert list(found.values()) == pytest.approx([1 / 24] * 24, abs=1e-4)


def test_all_silent_levels_are_one_class() -> None:
    starts = LoudnessSampler([powers(-300, -70, -90, -10)], [40], RATE, classes=50)
    assert by_second(probabilities(starts, 1)) == pytest.approx(
        {0: 1 / 6, 1: 1 / 6, 2: 1 / 6, 3: 1 / 2}, abs=1e-3
    )


def test_power_of_a_crop_is_the_mean_over_its_seconds() -> None:
    starts = LoudnessSampler([powers(-np.inf, -20, -np.inf)], [30], RATE)
    assert starts.power(0, 0, 10, 10) == pytest.approx(0.01)
    assert starts.power(0, 0, 5, 10) == pytest.approx(0.005)
    assert starts.power(0, 0, 0, 30) == pytest.approx(0.01 / 3)
    assert starts.power(0, 0, 0, 300) == pytest.approx(0.01 / 3), "without padding"
    assert starts.power(0, 0, 20, 10) == 0


# ---------------------------------------------------------------- silence


def test_silent_crop_is_drawn_again_up_to_the_last_try() -> None:
    starts = LoudnessSampler([powers(-80, -80, -80, -20)], [40], RATE, -60.0)
    assert starts.start(0, 0, 10, np.array([0.0, 0.5, 0.99, 0.1])) == 30
    assert starts.start(0, 0, 10, np.array([0.0, 0.1, 0.2])) == 6, "the last try is kept"
    assert starts.start(0, 0, 10, np.array([0.99, 0.0])) == 30, "the first try is not silent"
    # A crop that overlaps the loud second is not silent.
    assert starts.start(0, 0, 10, np.array([0.7, 0.0])) == 21


def test_stem_without_sound_keeps_its_first_draw() -> None:
    starts = LoudnessSampler([powers(-80, -np.inf, -70)], [30], RATE, -60.0)
    assert starts.start(0, 0, 10, np.array([0.5, 0.9, 0.1])) == 10


def test_stems_from_one_place_are_silent_only_together() -> None:
    table = np.concatenate([powers(-80, -80, -20), powers(-80, -20, -80)])
    starts = LoudnessSampler([table], [30], RATE, -60.0)
    tries = np.array([0.0, 0.5, 0.96])
    assert starts.start(0, None, 10, tries) == 10, "the second stem is not silent there"
    assert starts.start(0, 0, 10, tries) == 20


def test_draws_with_loudness_are_pure_and_reach_the_last_start() -> None:
    random = np.random.default_rng(0)
    table = [(10 ** random.uniform(-9, -1, (2, 6))).astype(np.float32) for _ in range(3)]
    lengths = [np.array([60, 55, 51])]
    config = SamplingConfig(0.5, avoid_silence_db=-50, silence_tries=4, loudness_classes=3)

    def make() -> CropSampler:
        return CropSampler(0, config, 2, lengths, (1.0,), table, RATE)

    draw, silent, ends = make(), 0, set()
    forward = [draw.crop((0, index), 10) for index in range(1500)]
    copy = pickle.loads(pickle.dumps(make()))
    for index in reversed(range(0, 1500, 7)):
        again = copy.crop((0, index), 10)
        assert np.array_equal(again.tracks, forward[index].tracks)
        assert np.array_equal(again.starts, forward[index].starts)
    plain = CropSampler(0, SamplingConfig(0.5), 2, lengths)
    for index, (tracks, starts) in enumerate(forward):
        assert np.array_equal(tracks, plain.crop((0, index), 10).tracks), (
            "the tracks do not depend on the loudness"
        )
        assert draw.loudness is not None
        one_place = len({*tracks.tolist()}) == len({*starts.tolist()}) == 1
        for stem, (track, start) in enumerate(zip(tracks, starts, strict=True)):
            assert 0 <= start <= lengths[0][track] - 10
            ends.add((int(track), int(lengths[0][track] - 10 - start)))
            power = draw.loudness.power(int(track), None if one_place else stem, int(start), 10)
            silent += power < 1e-5
    assert {(track, 0) for track in range(3)} <= ends
    # Less than half is silent, so four tries almost always succeed.
    assert silent < 0.1 * 3000
