"""Paired tests of systems on the same tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lightning_modules.comparison.systems import System, scored_unlike
from lightning_modules.evaluation.statistics import Difference, bonferroni, compare


@dataclass(frozen=True)
class Pair:
    """Two systems on the same tracks, with p corrected for the pairs in this source and metric."""

    metric: str
    source: str
    first: str
    second: str
    difference: Difference
    corrected_p: float


def pairs(systems: Sequence[System], metric: str, source: str) -> list[Pair]:
    """Test all pairs of systems in one metric and source.

    As in Roma et al. 2018, p-values are corrected (Bonferroni) for the number of pairs in the same
    metric and source.

    Returns:
        Pairs of systems, but not bounds, that have tracks in common and were scored alike; in the
        order of the systems.
    """
    values = {
        system.name: (system.runs, scores)
        for system in systems
        if not system.bound and (scores := system.values(metric, source))
    }
    found: list[tuple[str, str, Difference]] = []
    for (first, (runs, ours)), (second, (other_runs, theirs)) in combinations(values.items(), 2):
        shared = sorted(ours.keys() & theirs.keys())
        if shared and not scored_unlike([*runs, *other_runs]):
            one, two = ([scores[track] for track in shared] for scores in (ours, theirs))
            found.append((first, second, compare(one, two)))
    return [
        Pair(metric, source, first, second, difference, bonferroni(difference.p, len(found)))
        for first, second, difference in found
    ]
