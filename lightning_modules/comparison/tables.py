"""The tables of a comparison, as text and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_modules.comparison.pairs import Pair
from lightning_modules.comparison.settings import ABSENT, data_root, differences
from lightning_modules.comparison.systems import (
    KINDS,
    NORMALISED,
    PAIR,
    STREAMS,
    USDR,
    System,
    headline,
    notes_of,
    ordered,
)
from lightning_modules.evaluation.scores import finite_mean
from lightning_modules.evaluation.statistics import (
    CONFIDENCE,
    LEVEL,
    RESAMPLES,
    bonferroni,
    least_p,
)

_WIDEST_CELL = 32
_MOST_TRACKS_NAMED = 5


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: Cells.
        notes: Lines below it.
        labels: Number of columns that name a row.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    labels: int = 1

    def text(self) -> str:
        """Set the table for a terminal: names to the left, figures to the right."""
        rows = [
            [*row[: self.labels], *map(_shortened, row[self.labels :])]
            for row in [self.header, *self.rows]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if column >= self.labels else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "─" * max(map(len, lines))
        return "\n".join([self.title, rule, lines[0], rule, *lines[1:], rule, *self.notes])

    def markdown(self) -> str:
        """Set the table in Markdown."""
        lines = [
            f"## {self.title}",
            "",
            _piped(self.header),
            "|---" * self.labels + "|---:" * (len(self.header) - self.labels) + "|",
            *map(_piped, self.rows),
        ]
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"


def _shortened(cell: str) -> str:
    """Cut the middle out of a long cell: class paths differ at their ends."""
    half = _WIDEST_CELL // 2
    return cell if len(cell) <= _WIDEST_CELL else f"{cell[: half - 1]}…{cell[-half:]}"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# ----------------------------------------------------------------------- what is there


def kinds_of(systems: Sequence[System]) -> list[str]:
    """Find the figures that any system has.

    Args:
        systems: The systems.

    Returns:
        Those of ``KINDS`` with a figure for some source.
    """
    return [
        kind
        for kind in KINDS
        if any(
            math.isfinite(headline(kind, system.spread(kind, source)))
            for system in systems
            for source in system.sources
            # The mixture's gain over itself says nothing.
            if not (system.bound and kind in NORMALISED)
        )
    ]


def sources_of(systems: Sequence[System]) -> list[str]:
    """Find the sources of systems; those that bounds alone have are none.

    Args:
        systems: The systems.

    Returns:
        Names in the usual order.
    """
    return ordered([name for system in systems if not system.bound for name in system.sources])


# ----------------------------------------------------------------------- the tables


def overview(systems: Sequence[System], kind: str) -> Table:
    """Show the headlines of all systems, a row each.

    Args:
        systems: The systems and bounds.
        kind: One of ``KINDS``.

    Returns:
        A column a source, the mean of the four streams, and of vocals and accompaniment, each
        where some system has all of them.
    """
    sources = sources_of(systems)
    means = {
        label: names
        for label, names in (("mean of 4", STREAMS), ("mean of 2", PAIR))
        if any(set(names) <= set(system.sources) for system in systems if not system.bound)
    }
    header = ["", *sources, *means]
    rows = []
    for system in _bounds_last(systems):
        figures = {source: headline(kind, system.spread(kind, source)) for source in sources}
        cells = [
            number(figures[source]) + _deviation(system.seed_deviation(kind, source))
            for source in sources
        ]
        for names in means.values():
            whole = all(math.isfinite(figures.get(name, math.nan)) for name in names)
            cells.append(number(finite_mean([figures[n] for n in names])) if whole else ABSENT)
        if any(cell != ABSENT for cell in cells):
            rows.append([system.name, *cells])
    notes = ["±: standard deviation over seeds"] if any("±" in c for r in rows for c in r) else []
    if "mean of 2" in means:
        notes.append("mean of 4: vocals, drums, bass, other; mean of 2: vocals and accompaniment")
    if len({PAIR[1] in system.sources for system in systems}) > 1:
        beside = [system.name for system in systems if PAIR[1] in system.sources]
        notes.append(
            f"vocals of {', '.join(beside)} were scored beside accompaniment, by which other "
            "frames count than among four sources"
        )
    return Table(f"{kind}, dB: {_rule(kind)}", header, rows, notes)


def statistics(systems: Sequence[System], kind: str) -> Table:
    """Show how a figure is spread over tracks, a row a source and system.

    Args:
        systems: The systems and bounds.
        kind: One of ``KINDS``.

    Returns:
        The table.
    """
    header = ["", "", "median", f"{CONFIDENCE:.0%} interval", "quartiles", "mean", "seeds"]
    header += ["tracks", "skipped frames"]
    rows = []
    for source in sources_of(systems):
        spreads = [(system, system.spread(kind, source)) for system in _bounds_last(systems)]
        shown = [(system, one) for system, one in spreads if math.isfinite(headline(kind, one))]
        for place, (system, found) in enumerate(shown):
            skipped, frames = system.frames(source)
            rows.append(
                [
                    source if place == 0 else "",
                    system.name,
                    number(found.median),
                    _range(*system.interval(kind, source)),
                    _range(found.lower, found.upper),
                    number(found.mean),
                    f"{len(system.runs)}{_deviation(system.seed_deviation(kind, source))}",
                    str(found.tracks) if found.tracks else ABSENT,
                    f"{skipped} of {frames}" if frames and kind != USDR else ABSENT,
                ]
            )
    notes = [f"interval: bootstrap over tracks of the median, {RESAMPLES:,} resamples"]
    return Table(f"{kind} over tracks, dB", header, rows, notes, labels=2)


def paired(tested: Sequence[Pair]) -> Table:
    """Show differences between systems, a row a pair.

    Args:
        tested: Pairs of one figure.

    Returns:
        The table.
    """
    header = ["", "pair", "median difference", f"{CONFIDENCE:.0%} interval", "ahead on", "p", ""]
    rows = []
    for place, pair in enumerate(tested):
        found = pair.difference
        rows.append(
            [
                pair.source if place == 0 or tested[place - 1].source != pair.source else "",
                f"{pair.first} less {pair.second}",
                f"{found.median:+.2f}",
                _range(found.low, found.high, sign=True),
                f"{found.better} of {found.tracks}",
                _probability(pair.corrected_p),
                "" if pair.corrected_p < LEVEL else "ns",
            ]
        )
    kind = tested[0].kind
    notes = [
        f"p: Wilcoxon signed-rank, times the pairs of its source (Bonferroni); ns: p ≥ {LEVEL}"
    ]
    most = max(pair.difference.tracks for pair in tested)
    count = max(len([one for one in tested if one.source == pair.source]) for pair in tested)
    if bonferroni(least_p(most), count) >= LEVEL:
        notes.append(f"{most} tracks are too few for any difference to reach p < {LEVEL}")
    return Table(f"{kind}, paired differences over tracks, dB", header, rows, notes, labels=2)


def settings(systems: Sequence[System]) -> Table | None:
    """Show what the configs of systems differ in.

    Args:
        systems: The systems.

    Returns:
        A row a setting, a column a system; None with fewer than two configs, or without a
        difference.
    """
    configs = {system.name: system.runs[0].config for system in systems if system.runs[0].config}
    rows = differences(configs) if len(configs) > 1 else {}
    if not rows:
        return None
    cells = [[key, *(row[name] for name in configs)] for key, row in rows.items()]
    notes = ["seeds, paths and loggers are left out"]
    return Table("Settings that differ", ["", *configs], cells, notes)


def remarks(systems: Sequence[System]) -> list[str]:
    """Say what a reader has to know of the systems.

    Args:
        systems: The systems and bounds.

    Returns:
        A line each: pooled runs, frames of unlike length, tracks that not all have, notes of the
        scores.
    """
    lines = []
    for system in systems:
        if len(system.runs) > 1:
            names = ", ".join(run.name for run in system.runs)
            roots = sorted({data_root(run.config) for run in system.runs})
            where = f", and by where their data lay: {', '.join(roots)}" if len(roots) > 1 else ""
            lines.append(f"{system.name}: {names}, which differ by seed only{where}")
    windows = sorted(
        {track.window_seconds for s in systems for run in s.runs for track in run.tracks}
    )
    if len(windows) > 1:
        lengths = ", ".join(f"{window:g}" for window in windows)
        lines.append(f"frames of unlike length, {lengths} s: figures over them cannot be compared")
    scored = [system for system in systems if not system.bound and system.track_names]
    everything = set().union(*(system.track_names for system in scored))
    for system in scored:
        if lacking := sorted(everything - system.track_names):
            lines.append(
                f"{system.name}: has no scores of {len(lacking)} of {len(everything)} tracks, "
                f"which are left out of its paired differences: {_named(lacking)}"
            )
    for system in systems:
        # What holds for a bound, that it is an oracle's, its name says.
        lines += notes_of(system) if not system.bound else []
    return lines


def _named(tracks: Sequence[str]) -> str:
    more = len(tracks) - _MOST_TRACKS_NAMED
    return "; ".join(tracks[:_MOST_TRACKS_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _rule(kind: str) -> str:
    if kind == USDR:
        return "mean over tracks of the whole track's SDR"
    if kind in NORMALISED:
        return f"median over tracks of {NORMALISED[kind]} less that of the mixture"
    return "median over tracks of the median over frames"


def _bounds_last(systems: Sequence[System]) -> list[System]:
    return sorted(systems, key=lambda system: system.bound)


# ----------------------------------------------------------------------- cells


def number(value: float) -> str:
    """Write a figure.

    Args:
        value: dB.

    Returns:
        Two decimals, ``-`` for NaN.
    """
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
