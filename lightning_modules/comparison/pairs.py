"""Pairs of systems on the same tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lightning_modules.comparison.systems import System
from lightning_modules.evaluation.statistics import Difference, bonferroni, compare


@dataclass(frozen=True)
class Pair:
    """Two systems on the same tracks.

    Attributes:
        kind: One of ``KINDS``.
        source: Name of the source.
        first: Name of one system.
        second: Name of the other.
        difference: What they differ by.
        corrected_p: The probability times the number of pairs in this source and metric.
    """

    kind: str
    source: str
    first: str
    second: str
    difference: Difference
    corrected_p: float


def pairs(systems: Sequence[System], kind: str, source: str) -> list[Pair]:
    """Test all pairs of systems.

    Roma et al. 2018 compare the systems within each measure and target, with a Bonferroni
    correction; so the number of tests that one is corrected for is that of the pairs in this
    source and metric.

    Args:
        systems: The systems; bounds are left out.
        kind: One of ``KINDS``.
        source: Name of the source.

    Returns:
        The pairs that have tracks in common, in the order of the systems.
    """
    values = {
        system.name: figures
        for system in systems
        if not system.bound and (figures := system.values(kind, source))
    }
    found: list[tuple[str, str, Difference]] = []
    for first, second in combinations(values, 2):
        shared = sorted(values[first].keys() & values[second].keys())
        if shared:
            one, two = ([values[name][track] for track in shared] for name in (first, second))
            found.append((first, second, compare(one, two)))
    return [
        Pair(kind, source, first, second, difference, bonferroni(difference.p, len(found)))
        for first, second, difference in found
    ]
