"""Statistics over tracks, against worked examples and direct computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_modules.evaluation.statistics import (
    bonferroni,
    compare,
    least_p,
    median_interval,
    spread,
)


def test_spread_ignores_scores_that_are_not_finite() -> None:
    found = spread([4.0, math.nan, 1.0, 2.0, math.inf, 9.0])
    assert (found.median, found.mean, found.tracks) == (3.0, 4.0, 4)
    assert (found.lower, found.upper) == (1.75, 5.25)
    nothing = spread([math.nan])
    assert nothing.tracks == 0
    assert math.isnan(nothing.median)


def test_signed_rank_test_by_hand() -> None:
    """Six tracks, ranks of the absolute differences 1 to 6, the two smallest against."""
    differences = np.array([-0.1, -0.2, 0.3, 0.4, 0.5, 0.6])
    found = compare(differences + 1, np.ones(6))
    # Five of the 64 choices of signs have a rank sum of at most 3: {}, 1, 2, 3, 1+2; two-sided.
    assert found.p == pytest.approx(2 * 5 / 64, abs=1e-12)
    assert found.median == pytest.approx(0.35)
    assert (found.better, found.tracks) == (4, 6)
    swapped = compare(np.ones(6), differences + 1)
    assert swapped.p == found.p
    assert swapped.median == pytest.approx(-found.median)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_equal_tracks_are_excluded_from_the_test() -> None:
    found = compare([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.5, 3.75, 5.0])
    assert found.p == pytest.approx(2 / 8)  # three tracks differ, all in favour of the first system
    assert (found.better, found.tracks) == (3, 5)
    assert compare([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert math.isnan(compare([], []).p)
    assert compare([1.0, math.nan], [0.0, 0.0]).tracks == 1


def test_least_p_is_reached_if_all_tracks_agree() -> None:
    for tracks in (1, 5, 9):
        steps = np.arange(1.0, tracks + 1)
        assert compare(steps, np.zeros(tracks)).p == pytest.approx(least_p(tracks))
    assert least_p(0) == 1


def test_bonferroni() -> None:
    assert bonferroni(0.01, 3) == pytest.approx(0.03)
    assert bonferroni(0.5, 3) == 1
    assert math.isnan(bonferroni(math.nan, 3))


def test_interval_has_nominal_coverage() -> None:
    """About 95% of the intervals of 200 normal samples contain the true median."""
    samples = np.random.default_rng(1).standard_normal((200, 30))
    intervals = [median_interval(sample) for sample in samples]
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert 182 <= covered <= 198
    assert median_interval(samples[0]) == intervals[0], "intervals must be reproducible"


@pytest.mark.parametrize("count", [6, 9, 50])
def test_interval_equals_quantiles_of_resampled_medians(count: int) -> None:
    """Against 10,000 medians of resampled tracks."""
    values = np.random.default_rng(3).standard_normal(count)
    drawn = np.random.default_rng(0).integers(0, count, (10_000, count))
    medians = np.median(np.sort(values)[drawn], axis=1)
    assert median_interval(values) == pytest.approx(np.quantile(medians, (0.025, 0.975)), abs=1e-12)


def test_interval_of_several_runs() -> None:
    values = np.random.default_rng(2).standard_normal(20)
    alone = median_interval(values)
    # Equal runs do not change the interval; opposite ones cancel in resamples of odd length.
    assert median_interval(np.stack([values, values])) == pytest.approx(alone)
    opposite = median_interval(np.stack([values[:19], -values[:19]]))
    assert opposite == pytest.approx((0, 0), abs=1e-12)
    with_gap = np.stack([values, values])
    with_gap[0, 3] = math.nan
    assert median_interval(with_gap) == pytest.approx(median_interval(np.delete(values, 3)))
    assert all(map(math.isnan, median_interval(values[:5])))
    assert not any(map(math.isnan, median_interval(values[:6])))
    assert all(map(math.isnan, median_interval([])))
