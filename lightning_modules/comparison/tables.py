"""Tables of a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from datamodules.errors import counted
from datamodules.tracks.layouts import STEMS
from lightning_modules.comparison.pairs import Pair
from lightning_modules.comparison.settings import ABSENT, data_root, differences
from lightning_modules.comparison.systems import (
    ALL_METRICS,
    NORMALISED,
    SCORED_WITH,
    USDR,
    System,
    headline,
    notes_of,
    scored_unlike,
)
from lightning_modules.comparison.table import Table
from lightning_modules.evaluation.scores import finite_mean, ordered_sources
from lightning_modules.evaluation.statistics import (
    CONFIDENCE,
    LEVEL,
    RESAMPLES,
    bonferroni,
    least_p,
)

_TWO_STEMS = ("vocals", "accompaniment")
_MAX_TRACKS_NAMED = 5


def metrics_of(systems: Sequence[System]) -> list[str]:
    """Metrics of ``ALL_METRICS`` that any system has a score of."""
    return [
        metric
        for metric in ALL_METRICS
        if any(
            math.isfinite(headline(metric, system.spread(metric, source)))
            for system in systems
            for source in system.sources
            # Normalised scores of a bound are meaningless.
            if not (system.bound and metric in NORMALISED)
        )
    ]


def sources_of(systems: Sequence[System]) -> list[str]:
    """Sources of the systems, without those that only bounds have."""
    return ordered_sources(
        [name for system in systems if not system.bound for name in system.sources]
    )


def overview(systems: Sequence[System], metric: str) -> Table:
    """Main scores: a row per system, a column per source, and means.

    Means over vocals, drums, bass and other, and over vocals and accompaniment, are shown if some
    system has all of these sources.
    """
    sources = sources_of(systems)
    means = {
        label: names
        for label, names in (("mean of 4", STEMS), ("mean of 2", _TWO_STEMS))
        if any(set(names) <= set(system.sources) for system in systems if not system.bound)
    }
    header = ["", *sources, *means]
    rows, bounds = [], 0
    for system in _bounds_last(systems):
        scores = {source: headline(metric, system.spread(metric, source)) for source in sources}
        cells = [
            _number(scores[source]) + _deviation(system.seed_deviation(metric, source))
            for source in sources
        ]
        for names in means.values():
            complete = all(math.isfinite(scores.get(name, math.nan)) for name in names)
            cells.append(_number(finite_mean([scores[n] for n in names])) if complete else ABSENT)
        if any(cell != ABSENT for cell in cells):
            rows.append([system.name, *cells])
            bounds += system.bound
    notes = ["±: standard deviation over seeds"] if any("±" in c for r in rows for c in r) else []
    if "mean of 2" in means:
        notes.append("mean of 4: vocals, drums, bass, other; mean of 2: vocals and accompaniment")
    if len({_TWO_STEMS[1] in system.sources for system in systems}) > 1:
        beside = [system.name for system in systems if _TWO_STEMS[1] in system.sources]
        notes.append(
            f"vocals of {', '.join(beside)} were scored with accompaniment, so that other frames "
            "are skipped than with four sources"
        )
    best = _best(rows[: len(rows) - bounds])
    return Table(f"{metric}, dB: {_rule(metric)}", header, rows, notes, best=best, bounds=bounds)


def _best(rows: Sequence[Sequence[str]]) -> frozenset[tuple[int, int]]:
    """Cells with the highest number of their column, as shown; none of a single system."""
    found = []
    for column in range(1, len(rows[0]) if rows else 0):
        values = {
            row: float(cells[column].split()[0])
            for row, cells in enumerate(rows)
            if cells[column] != ABSENT
        }
        if len(values) > 1:
            best = max(values.values())
            found += [(row, column) for row, value in values.items() if value == best]
    return frozenset(found)


def statistics(systems: Sequence[System], metric: str) -> Table:
    """Statistics over tracks: a row per source and system."""
    header = ["", "", "median", f"{CONFIDENCE:.0%} interval", "quartiles", "mean", "seeds"]
    header += ["tracks", "skipped frames"]
    rows = []
    for source in sources_of(systems):
        spreads = [(system, system.spread(metric, source)) for system in _bounds_last(systems)]
        shown = [(system, one) for system, one in spreads if math.isfinite(headline(metric, one))]
        for place, (system, found) in enumerate(shown):
            skipped, frames = system.frames(source)
            rows.append(
                [
                    source if place == 0 else "",
                    system.name,
                    _number(found.median),
                    _range(*system.interval(metric, source)),
                    _range(found.lower, found.upper),
                    _number(found.mean),
                    f"{len(system.runs)}{_deviation(system.seed_deviation(metric, source))}",
                    str(found.tracks) if found.tracks else ABSENT,
                    f"{skipped} of {frames}" if frames and metric != USDR else ABSENT,
                ]
            )
    notes = [f"interval: bootstrap over tracks of the median, {RESAMPLES:,} resamples"]
    return Table(f"{metric} over tracks, dB", header, rows, notes, labels=2)


def paired(tested: Sequence[Pair]) -> Table:
    """Paired differences of systems in one metric: a row per pair."""
    header = ["", "pair", "median difference", f"{CONFIDENCE:.0%} interval", "ahead on", "p", ""]
    rows = []
    for place, pair in enumerate(tested):
        found = pair.difference
        rows.append(
            [
                pair.source if place == 0 or tested[place - 1].source != pair.source else "",
                f"{pair.first} minus {pair.second}",
                f"{found.median:+.2f}",
                _range(found.low, found.high, sign=True),
                f"{found.better} of {found.tracks}",
                _probability(pair.corrected_p),
                "" if pair.corrected_p < LEVEL else "ns",
            ]
        )
    metric = tested[0].metric
    notes = [
        f"p: Wilcoxon signed-rank test, times the number of pairs per source (Bonferroni); "
        f"ns: p ≥ {LEVEL}"
    ]
    return Table(f"{metric}, paired differences over tracks, dB", header, rows, notes, labels=2)


def too_few_tracks(tested: Sequence[Pair]) -> list[str]:
    """Remark that no difference can be significant, or even be tested; none if one can."""
    if not tested:
        return []
    most = max(pair.difference.tracks for pair in tested)
    if most < 2:
        return ["1 track is too few for paired differences, which need two or more"]
    alike = Counter((pair.metric, pair.source) for pair in tested)
    if bonferroni(least_p(most), min(alike.values())) < LEVEL:
        return []
    return [f"{most} tracks are too few for any difference to reach p < {LEVEL}"]


def settings(systems: Sequence[System]) -> Table | None:
    """Settings that differ: a row per setting, a column per system; None if there are none."""
    configs = {system.name: system.runs[0].config for system in systems if system.runs[0].config}
    rows = differences(configs) if len(configs) > 1 else {}
    if not rows:
        return None
    cells = [[key, *(row[name] for name in configs)] for key, row in rows.items()]
    notes = ["without seeds, paths and loggers"]
    return Table("Settings that differ", ["", *configs], cells, notes)


def remarks(systems: Sequence[System]) -> list[str]:
    """Remarks, one line each: pooled runs, different scoring, missing tracks, notes."""
    lines = []
    for system in systems:
        if len(system.runs) > 1:
            names = ", ".join(run.name for run in system.runs)
            roots = sorted({data_root(run.config) for run in system.runs})
            where = f" and the path of their data: {', '.join(roots)}" if len(roots) > 1 else ""
            lines.append(f"{system.name}: {names}, which differ only by seed{where}")
    lines += _scored_unlike(systems)
    scored = [system for system in systems if not system.bound and system.track_names]
    everything = set().union(*(system.track_names for system in scored))
    for system in scored:
        if lacking := sorted(everything - system.track_names):
            lines.append(
                f"{system.name}: has no scores of {len(lacking)} of "
                f"{counted(len(everything), 'track')}, "
                f"which are excluded from its paired differences: {_named(lacking)}"
            )
    for system in systems:
        # A bound's name shows that it is an oracle.
        lines += notes_of(system) if not system.bound else []
    return lines


def _scored_unlike(systems: Sequence[System]) -> list[str]:
    """Remark what systems were scored with differently, and which ones."""
    runs = [run for system in systems for run in system.runs]
    lines = []
    for name in scored_unlike(runs):
        words, unit = SCORED_WITH[name]
        groups: dict[float, list[str]] = {}
        for run in runs:
            for value in set(run.scored_with(name).values()):
                groups.setdefault(value, []).append(run.name)
        found = "; ".join(
            f"{value:g}{unit} ({', '.join(names)})" for value, names in sorted(groups.items())
        )
        lines.append(f"not scored alike, so these scores cannot be compared: {words} {found}")
    return lines


def _named(tracks: Sequence[str]) -> str:
    more = len(tracks) - _MAX_TRACKS_NAMED
    return "; ".join(tracks[:_MAX_TRACKS_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _rule(metric: str) -> str:
    if metric == USDR:
        return "mean over tracks of the whole track's SDR"
    if metric in NORMALISED:
        return f"median over tracks of {NORMALISED[metric]} minus that of the mixture"
    return "median over tracks of the median over frames"


def _bounds_last(systems: Sequence[System]) -> list[System]:
    return sorted(systems, key=lambda system: system.bound)


def _number(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:.2f}"


def _deviation(value: float) -> str:
    return "" if math.isnan(value) else f" ± {value:.2f}"


def _range(low: float, high: float, sign: bool = False) -> str:
    if math.isnan(low):
        return ABSENT
    form = "+.2f" if sign else ".2f"
    return f"{low:{form}} to {high:{form}}"


def _probability(p: float) -> str:
    if math.isnan(p):
        return ABSENT
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"
