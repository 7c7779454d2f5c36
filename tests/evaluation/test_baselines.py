"""The mixture at constant gains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_modules.evaluation.baselines import (
    BEST_GAIN,
    best_gain,
    constant_gain_summaries,
    score_mixture,
)
from lightning_modules.evaluation.score_files import read_scores, write_scores
from lightning_modules.evaluation.scores import TrackScores, aggregate, score_track
from lightning_modules.evaluation.table import score_table

RATE = 800
SOURCES = ("vocals", "drums", "bass", "other")


def references() -> NDArray[np.float64]:
    """Noise of 3.4 s, shape (4, 2, T); the drums pause in the second second."""
    found = np.random.default_rng(0).normal(size=(4, 2, int(3.4 * RATE)))
    found *= np.array([0.1, 0.2, 0.05, 0.3])[:, None, None]
    found[1, :, RATE : 2 * RATE] = 0
    return found


def scored() -> TrackScores:
    true = references()
    return score_mixture("a", true, np.repeat(true.sum(0)[None], 4, 0), RATE, SOURCES)


def test_the_best_gain_has_the_least_error() -> None:
    true = references()
    mixture = true.sum(0)
    gain = best_gain(true[0], mixture)
    errors = [np.sum((true[0] - each * mixture) ** 2) for each in (gain, gain + 1e-4, gain - 1e-4)]
    assert min(errors) == errors[0]
    assert best_gain(-0.3 * mixture, mixture) == pytest.approx(-0.3)
    assert best_gain(true[0], 0 * mixture) == 0


def test_sdr_is_that_of_bss_eval() -> None:
    true, scores = references(), scored()
    assert list(scores.constant_gains) == ["mixture/4", BEST_GAIN]
    for name, found in scores.constant_gains.items():
        gains = found.metrics["gain"]
        estimates = np.stack([gains[source] * true.sum(0) for source in SOURCES])
        expected = score_track("a", true, estimates, RATE, SOURCES)
        for source in SOURCES:
            np.testing.assert_allclose(
                found.frames[source]["SDR"], expected.frames[source]["SDR"], atol=1e-6
            )
            assert np.isnan(found.frames[source]["SIR"]).all()
            assert found.usdr[source] == pytest.approx(expected.usdr[source])
        assert found.skipped_frames["vocals"] == 1, "the drums are silent in a frame"
        assert (set(gains.values()) == {0.25}) == (name == "mixture/4")


def test_single_sources_and_silence() -> None:
    true = references()[:1]
    alone = score_mixture("a", true, true + 0.1, RATE, ["vocals"])
    assert list(alone.constant_gains) == [BEST_GAIN], "mixture/1 is the mixture"
    true = references() * np.array([0, 1, 1, 1])[:, None, None]
    scores = score_mixture("a", true, np.repeat(true.sum(0)[None], 4, 0), RATE, SOURCES)
    for found in scores.constant_gains.values():
        assert np.isnan(found.frames["vocals"]["SDR"]).all()
        assert np.isnan(found.usdr["vocals"])


def test_files_and_the_table(tmp_path: Path) -> None:
    scores = scored()
    write_scores(scores, tmp_path / "a.json")
    read = read_scores(tmp_path / "a.json")
    assert list(read.constant_gains) == ["mixture/4", BEST_GAIN]
    for name, found in scores.constant_gains.items():
        again = read.constant_gains[name]
        assert again.metrics == found.metrics
        assert again.usdr == found.usdr
        for source in SOURCES:
            np.testing.assert_allclose(
                again.frames[source]["SDR"], found.frames[source]["SDR"], atol=1e-5
            )
    summaries = constant_gain_summaries([read])
    table = score_table(aggregate([scores]), aggregate([scores]), "Test", summaries)
    rows = [line.split() for line in table.partition("Baselines")[2].splitlines()[1:-1]]
    mean = aggregate([scores.constant_gains[BEST_GAIN]]).mean("SDR")
    best = next(row for row in rows if row[:2] == ["best", "gain"])
    assert best[-1] == f"{mean:.2f}"
    assert [row[:-5] for row in rows if len(row) > 5 and row[0] != "vocals"] == [
        *(["SDR", "mixture"], ["mixture/4"], ["best", "gain"]),
        *(["uSDR", "mixture"], ["mixture/4"], ["best", "gain"]),
    ]
    assert "Baselines" not in score_table(aggregate([scores]), None, "Test", summaries)
