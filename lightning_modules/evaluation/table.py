"""Scores as plain-text tables for a terminal or a log file."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from datamodules.tables import format_table
from lightning_modules.evaluation.scores import (
    METRICS,
    Summary,
    TrackScores,
    disjoint,
    finite_mean,
    ordered_sources,
)

_WIDTH = 100


def score_table(
    summary: Summary,
    baseline: Summary | None = None,
    title: str = "Scores",
    constant_gains: Mapping[str, Summary] | None = None,
) -> str:
    """Format a summary as a table at most 100 columns wide, with '-' for missing scores.

    Args:
        summary: Scores of a model.
        baseline: Scores of the mixture as estimate of every source, over the same tracks.
        title: First line of the table.
        constant_gains: Scores of the mixture at constant gains, for a second table.
    """
    columns = [*METRICS, "uSDR"]
    if baseline:
        columns = [*METRICS, "mix SDR", "+SDR", "uSDR", "mix uSDR", "+uSDR"]
    mixture = baseline.scores if baseline else {}
    rows = {source: dict(scores) for source, scores in summary.scores.items()}
    for source, row in rows.items():
        for metric in ("SDR", "uSDR"):
            row[f"mix {metric}"] = mixture.get(source, {}).get(metric, math.nan)
            row[f"+{metric}"] = row[metric] - row[f"mix {metric}"]
    mean = {
        column: finite_mean([rows[source][column] for source in summary.disjoint_sources])
        for column in columns
    }

    def cells(label: str, row: dict[str, float]) -> list[str]:
        return [label, *(_cell(row[column], column.startswith("+")) for column in columns)]

    body = [cells(source, row) for source, row in rows.items()]
    table = format_table(["", *columns], [*body, None, cells("mean", mean)])
    lines = [title, table, *_footnotes(summary, baseline is not None)]
    if baseline and constant_gains:
        lines += ["", _baseline_table({"mixture": baseline, **constant_gains})]
    return "\n".join(lines)


def _baseline_table(baselines: Mapping[str, Summary]) -> str:
    """Format SDR and uSDR of estimates without separation: a row per baseline."""
    sources = ordered_sources(source for each in baselines.values() for source in each.scores)
    rows: list[list[str] | None] = []
    for metric in ("SDR", "uSDR"):
        rows += [None] if rows else []
        for place, (name, summary) in enumerate(baselines.items()):
            values = [summary.scores.get(source, {}).get(metric, math.nan) for source in sources]
            cells = map(_cell, [*values, summary.mean(metric)])
            rows.append(["" if place else metric, name, *cells])
    table = format_table(["", "", *sources, "mean"], rows, labels=2)
    note = "best gain: the gain of each source and track that minimises the squared error; dB"
    return "\n".join(["Baselines: the mixture at constant gains, without separation", table, note])


def metric_table(
    tracks: Sequence[TrackScores], names: Sequence[str], baseline: Sequence[TrackScores] = ()
) -> str:
    """Format means over tracks of other metrics than BSS Eval: a row per metric.

    Args:
        tracks: Scores of a model, with `metrics`.
        names: The metrics.
        baseline: Scores of the mixture as estimate of every source; each metric then has a second
            row with the model's improvement over the mixture.
    """
    sources = ordered_sources(source for track in tracks for source in track.frames)
    stems = disjoint(sources)

    def means(scores: Sequence[TrackScores], name: str) -> list[float]:
        by_source = {
            source: finite_mean([track.metrics[name].get(source, math.nan) for track in scores])
            for source in sources
        }
        return [*by_source.values(), finite_mean([by_source[source] for source in stems])]

    rows = []
    for name in names:
        found = means(tracks, name)
        rows.append([name, *(_cell(value, digits=4) for value in found)])
        if baseline:
            gains = [a - b for a, b in zip(found, means(baseline, name), strict=True)]
            rows.append(["  less mixture", *(_cell(gain, True, 4) for gain in gains)])
    table = format_table(["", *sources, "mean"], rows)
    return f"Metrics of whole tracks\n{table}\nmean over {_count(len(tracks))}"


def _cell(value: float, sign: bool = False, digits: int = 2) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _count(tracks: int) -> str:
    return f"{tracks} track{'s' * (tracks != 1)}"


def _footnotes(summary: Summary, compared: bool) -> list[str]:
    lines = [f"{_count(summary.tracks)}; dB; {summary.rule}"]
    if compared:
        lines.append("mix: the mixture as estimate; +: difference of the two scores shown")
    if any(summary.skipped_frames.values()):
        counts = ", ".join(f"{source} {n}" for source, n in summary.skipped_frames.items())
        if len(set(summary.skipped_frames.values())) == 1:
            counts = f"{next(iter(summary.skipped_frames.values()))} for each source"
        lines.append(
            f"skipped, of {summary.frames} frames: {counts} "
            "(any source or estimate silent, or as noted)"
        )
    lines += [f"note: {line}" for line in summary.note_lines]
    return [textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines]
