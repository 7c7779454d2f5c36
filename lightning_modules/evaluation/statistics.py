"""Statistics of scores over tracks: their spread, and whether two systems differ.

A score is one value per track, such as the median of SDR over its frames, in dB. The samples are
tracks, not frames, so all intervals and tests are over tracks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_Scores = Sequence[float] | NDArray[np.float64]

LEVEL = 0.01  # significance level of Roma et al. 2018
CONFIDENCE = 0.95
# The range of five tracks' scores contains the true median with a probability of 1 - 2 / 2^5 = 94%.
_MIN_TRACKS_FOR_INTERVAL = 6
RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Spread:
    """Spread of scores over tracks.

    Attributes:
        median: Median over tracks, dB.
        mean: Mean over tracks, dB.
        lower: First quartile, interpolated linearly, dB.
        upper: Third quartile, dB.
        tracks: Number of tracks with a score.
    """

    median: float
    mean: float
    lower: float
    upper: float
    tracks: int


@dataclass(frozen=True)
class Difference:
    """Difference of two systems on the same tracks.

    Attributes:
        median: Median over tracks of the first system's score minus the second's, dB.
        low: Lower end of its confidence interval, dB.
        high: Upper end, dB.
        better: Number of tracks on which the first system is better.
        tracks: Number of tracks on which both have a score.
        p: Two-sided p-value of the Wilcoxon signed-rank test, not corrected; NaN without tracks,
            1 if no track differs.
    """

    median: float
    low: float
    high: float
    better: int
    tracks: int
    p: float


def spread(values: _Scores) -> Spread:
    """Compute the spread of the finite scores of tracks, dB; all NaN if there are none."""
    found = _finite(values)
    if not found.size:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0)
    lower, median, upper = np.quantile(found, (0.25, 0.5, 0.75))
    return Spread(float(median), float(found.mean()), float(lower), float(upper), found.size)


def median_interval(values: _Scores) -> tuple[float, float]:
    """Bootstrap the confidence interval of a median over tracks.

    Percentile bootstrap (Efron 1979, "Bootstrap methods: another look at the jackknife"): medians
    of 10,000 resamples of the tracks with replacement. The seed is fixed, so that the same scores
    always give the same interval.

    Args:
        values: One score per track, shape (N,), dB; or scores of several runs on the same tracks,
            shape (R, N). Each resample draws the same tracks for all runs, and the statistic is the
            mean over runs of their medians. Tracks without a finite score in every run are
            ignored.

    Returns:
        Ends of the interval that contains 95% of the resampled medians, dB; NaN for fewer than six
        tracks.
    """
    runs = np.atleast_2d(np.asarray(values, dtype=np.float64))
    runs = runs[:, np.isfinite(runs).all(axis=0)]
    count = runs.shape[1]
    if count < _MIN_TRACKS_FOR_INTERVAL:
        return math.nan, math.nan
    runs = runs[:, np.argsort(runs.mean(axis=0))]
    if len(runs) == 1:
        medians = runs[0][_middles(count)].mean(axis=1)
    else:
        medians = np.mean([np.median(run[_drawn(count)], axis=1) for run in runs], axis=0)
    low, high = np.quantile(medians, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


@lru_cache(maxsize=8)
def _drawn(count: int) -> NDArray[np.int64]:
    """Track numbers of each resample, shape (resamples, tracks)."""
    return np.random.default_rng(_SEED).integers(0, count, (RESAMPLES, count))


@lru_cache
def _middles(count: int) -> NDArray[np.int64]:
    """Ranks of the one or two middle values of each resample, shape (resamples, 2).

    The median of values drawn from a sorted list is the value at the median of the drawn ranks.
    """
    return np.sort(_drawn(count), axis=1)[:, [(count - 1) // 2, count // 2]]


def compare(first: _Scores, second: _Scores) -> Difference:
    """Compare two systems track by track.

    Wilcoxon's signed-rank test, as in Roma, Green and Tremblay 2018, section 3.1: exact for up to
    50 tracks without ties, else the normal approximation. Tracks on which the systems are equal
    are excluded from the ranks. Tracks without a finite score in both systems are ignored.

    Args:
        first: Scores of one system, dB.
        second: Scores of the other on the same tracks, in the same order.
    """
    differences = _finite(np.asarray(first, np.float64) - np.asarray(second, np.float64))
    if not differences.size:
        return Difference(math.nan, math.nan, math.nan, 0, 0, math.nan)
    low, high = median_interval(differences)
    return Difference(
        median=float(np.median(differences)),
        low=low,
        high=high,
        better=int(np.count_nonzero(differences > 0)),
        tracks=differences.size,
        p=_wilcoxon(differences),
    )


def bonferroni(p: float, tests: int) -> float:
    """Bonferroni correction: the p-value times the number of tests, at most 1."""
    return p if math.isnan(p) else min(1.0, p * tests)


def least_p(tracks: int) -> float:
    """Smallest two-sided p-value of the signed-rank test: all tracks favour one system."""
    return min(1.0, 2.0 ** (1 - tracks))


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    differing = differences[differences != 0]
    if not differing.size:
        return 1.0
    from scipy.stats import wilcoxon  # takes a second to import

    return float(wilcoxon(differing).pvalue)


def _finite(values: _Scores) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]
