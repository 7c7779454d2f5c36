"""Scores as a table for a terminal or a log file."""

import math
import textwrap

from lightning_modules.evaluation.scores import METRICS, Summary, finite_mean


def score_table(summary: Summary, baseline: Summary | None = None, title: str = "Scores") -> str:
    """Show a summary as a plain-text table.

    Args:
        summary: Scores of a model.
        baseline: Scores of the mixture as estimate of every source, over the same tracks.
        title: First line of the table.

    Returns:
        The table, at most 100 columns wide; '-' where there is no figure.
    """
    columns = [*METRICS, "uSDR"]
    if baseline:
        columns = [*METRICS, "mix SDR", "+SDR", "uSDR", "mix uSDR", "+uSDR"]
    widths = [max(len(column), 6) + 2 for column in columns]
    first = max(8, *map(len, summary.figures), 0)

    mixture = baseline.figures if baseline else {}
    rows = {source: dict(figures) for source, figures in summary.figures.items()}
    for source, row in rows.items():
        for metric in ("SDR", "uSDR"):
            row[f"mix {metric}"] = mixture.get(source, {}).get(metric, math.nan)
            row[f"+{metric}"] = row[metric] - row[f"mix {metric}"]
    rows["mean"] = {
        column: finite_mean([rows[source][column] for source in summary.disjoint_sources])
        for column in columns
    }
    rule = "─" * (first + sum(widths))

    def line(label: str, cells: list[str]) -> str:
        return label.ljust(first) + "".join(map(str.rjust, cells, widths))

    body = [
        line(label, [_cell(column, row[column]) for column in columns])
        for label, row in rows.items()
    ]
    notes = _footnotes(summary, baseline is not None)
    return "\n".join(
        [title, rule, line("", columns), rule, *body[:-1], rule, body[-1], rule, *notes]
    )


def _cell(column: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.2f}" if column.startswith("+") else f"{value:.2f}"


def _footnotes(summary: Summary, compared: bool) -> list[str]:
    """Say below a table how its figures came about, and what is not in them."""
    lines = [f"{summary.tracks} track{'s' * (summary.tracks != 1)}; dB; {summary.rule}"]
    if compared:
        lines.append("mix: the mixture taken as estimate; +: difference of the two figures shown")
    if any(summary.skipped_frames.values()):
        counts = ", ".join(f"{source} {n}" for source, n in summary.skipped_frames.items())
        if len(set(summary.skipped_frames.values())) == 1:
            counts = f"{next(iter(summary.skipped_frames.values()))} for each source"
        lines.append(
            f"skipped, of {summary.frames} frames: {counts} "
            "(any source or estimate silent, or as noted)"
        )
    for note, names in summary.notes.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"note: {note} ({', '.join(names[:3])}{more})")
    return [textwrap.fill(line, 100, subsequent_indent="  ") for line in lines]
