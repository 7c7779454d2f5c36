"""What figures over tracks tell: their spread, and whether two systems differ.

A figure is one track's, such as the median of SDR over its frames, in dB. Tracks, not frames, are
what was sampled, so all that is said of uncertainty rests on tracks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_Figures = Sequence[float] | NDArray[np.float64]

LEVEL = 0.01  # at which Roma et al. call a difference significant
CONFIDENCE = 0.95
# With fewer even the whole range of tracks holds the median less often: 1 - 2 / 2^5 is 94%.
_FEWEST_FOR_INTERVAL = 6
RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Spread:
    """How figures are spread over tracks.

    Attributes:
        median: Median over tracks, dB.
        mean: Mean over tracks, dB.
        lower: First quartile, interpolated linearly, dB.
        upper: Third quartile, dB.
        tracks: Number of tracks that have a figure.
    """

    median: float
    mean: float
    lower: float
    upper: float
    tracks: int


@dataclass(frozen=True)
class Difference:
    """What two systems differ by on the same tracks.

    Attributes:
        median: Median over tracks of the first system's figure less the second's, dB.
        low: Lower end of its confidence interval, dB.
        high: Upper end, dB.
        better: Number of tracks on which the first system is ahead.
        tracks: Number of tracks on which both have a figure.
        p: Two-sided probability of the Wilcoxon signed-rank test, not corrected; NaN without
            tracks, 1 if no track differs.
    """

    median: float
    low: float
    high: float
    better: int
    tracks: int
    p: float


def spread(values: _Figures) -> Spread:
    """Describe figures of tracks.

    Args:
        values: A figure a track, dB; those that are not finite do not count.

    Returns:
        Their spread; NaN throughout if none is finite.
    """
    found = _finite(values)
    if not found.size:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0)
    lower, median, upper = np.quantile(found, (0.25, 0.5, 0.75))
    return Spread(float(median), float(found.mean()), float(lower), float(upper), found.size)


def median_interval(values: _Figures) -> tuple[float, float]:
    """Bootstrap the confidence interval of a median over tracks.

    Percentile bootstrap (Efron 1979, "Bootstrap methods: another look at the jackknife"): medians
    of 10,000 samples of as many tracks, drawn with replacement by a fixed seed, so that the same
    figures always give the same interval.

    Args:
        values: A figure a track, shape (N,), dB, or of several runs on the same tracks, shape
            (R, N), of which each resample draws the same tracks; the statistic is then the mean
            over runs of their medians. Tracks without a finite figure in every run do not count.

    Returns:
        Ends of the interval that holds 95% of the resampled medians, dB; NaN if there are fewer
        than six tracks, of which no interval holds the median so often.
    """
    runs = np.atleast_2d(np.asarray(values, dtype=np.float64))
    runs = runs[:, np.isfinite(runs).all(axis=0)]
    count = runs.shape[1]
    if count < _FEWEST_FOR_INTERVAL:
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
    """Tracks of each resample, shape (resamples, tracks)."""
    return np.random.default_rng(_SEED).integers(0, count, (RESAMPLES, count))


@lru_cache
def _middles(count: int) -> NDArray[np.int64]:
    """Where in sorted figures each resample has its one or two middles, shape (resamples, 2).

    The median of values drawn from a sorted list is the value at the median of the places drawn.
    """
    return np.sort(_drawn(count), axis=1)[:, [(count - 1) // 2, count // 2]]


def compare(first: _Figures, second: _Figures) -> Difference:
    """Compare two systems track by track.

    The test is Wilcoxon's signed-rank test, as in Roma, Green and Tremblay 2018, section 3.1:
    exact for up to 50 tracks without ties, else by the normal approximation; tracks on which the
    systems are equal are left out of the ranks.

    Args:
        first: Figures of one system, dB.
        second: Figures of the other on the same tracks, in the same order.

    Returns:
        The differences. Tracks that lack a finite figure in either do not count.
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
    """Correct a probability for the number of tests that it is one of.

    Args:
        p: Probability of one test.
        tests: Number of tests.

    Returns:
        The probability times the number of tests, at most 1; NaN stays NaN.
    """
    return p if math.isnan(p) else min(1.0, p * tests)


def least_p(tracks: int) -> float:
    """Find the smallest two-sided probability that the signed-rank test can give.

    Args:
        tracks: Number of tracks.

    Returns:
        2 / 2^tracks, that of all tracks in favour of one system; 1 without tracks.
    """
    return min(1.0, 2.0 ** (1 - tracks))


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    differing = differences[differences != 0]
    if not differing.size:
        return 1.0
    from scipy.stats import wilcoxon  # takes a second to be imported

    return float(wilcoxon(differing).pvalue)


def _finite(values: _Figures) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]
