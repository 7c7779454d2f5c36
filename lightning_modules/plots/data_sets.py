"""Plots of a data set, from a ``datamodules.doctor.report``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from datamodules.doctor.diagnosis import (
    CLIPPED_SHARE,
    FAINT_DB,
    MIXTURE_NOTE_DB,
    MIXTURE_WARNING_DB,
)
from datamodules.doctor.measurements import SILENT_DB, FileMeasures
from datamodules.doctor.report import Report
from datamodules.tracks.layouts import MIXTURE, SUBSETS
from lightning_modules.plots.style import COLOURS, HEAT_COLOURS, new_figure

_BLUE, _RED, _GREEN, _ORANGE = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[5]
_SUBSET_COLOURS = dict(zip(SUBSETS, (_BLUE, _GREEN, _ORANGE), strict=True))
_SEVERITY_COLOURS = {"note": "0.6", "warning": _ORANGE, "error": _RED}
# Minus infinity on a decibel or logarithmic axis is drawn at its end.
_EXACT_DB = -120.0
_NEVER = 1e-7
_LONGEST_NAME = 44


def overview_figure(report: Report) -> Figure:
    """Draw lengths, levels, silence, clipping, errors of mixtures, and findings.

    A dot is a file or a track; dashed lines are the thresholds of the doctor's findings.
    """
    figure = new_figure(f"{report.root}: {report.counted}", 7.5)
    panels = figure.subplots(2, 3)
    lengths, levels, silence, clipping, mixtures, findings = panels.flat
    _draw_lengths(lengths, report)
    names = [*report.stems, MIXTURE]

    _draw_dots(levels, report, names, lambda file: max(file.rms_db, SILENT_DB))
    levels.axhline(FAINT_DB, color="0.5", linestyle="--", linewidth=1)
    levels.set(title="Level", ylabel="RMS, dBFS")

    _draw_dots(silence, report, names, lambda file: 100 * file.silent_share)
    silence.set(title=f"Seconds below {SILENT_DB:g} dBFS", ylabel="%", ylim=(-3, 103))

    _draw_dots(clipping, report, names, lambda file: 100 * max(file.clipped_share, _NEVER))
    clipping.axhline(100 * CLIPPED_SHARE, color="0.5", linestyle="--", linewidth=1)
    clipping.set(title="Clipped samples", ylabel="% (logarithmic; lowest: none)")
    clipping.set(yscale="log", ylim=(50 * _NEVER, 200))

    _draw_mixtures(mixtures, report)
    _draw_findings(findings, report)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=subset)
        for subset, colour in _SUBSET_COLOURS.items()
        if any(track.subset == subset for track in report.tracks)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def levels_figure(report: Report) -> Figure:
    """Draw the level of every file: a row per track, a column per stem.

    Silent files are marked, missing ones are grey.
    """
    names = [*report.stems, MIXTURE]
    tracks = [track for track in report.tracks if track.files]
    cells = np.full((len(tracks), len(names)), math.nan)
    for row, track in enumerate(tracks):
        for column, name in enumerate(names):
            if name in track.files:
                cells[row, column] = max(track.files[name].rms_db, SILENT_DB)
    height = 1.8 + 0.2 * max(1, len(tracks))
    figure = new_figure(f"{report.root}: level of every file", height, width=9)
    axes = figure.subplots()
    if not tracks:
        axes.text(0.5, 0.5, "no track could be read", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    image = axes.imshow(
        np.ma.masked_invalid(cells), aspect="auto", interpolation="nearest", cmap=HEAT_COLOURS
    )
    for row, track in enumerate(tracks):
        for column, name in enumerate(names):
            if name in track.files and track.files[name].is_silent:
                axes.text(column, row, "silent", ha="center", va="center", fontsize=7, color="w")
    axes.set_xticks(range(len(names)), names)
    labels = [track.label(_LONGEST_NAME) for track in tracks]
    axes.set_yticks(range(len(tracks)), labels, fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.set_ticks_position("top")
    figure.colorbar(image, ax=axes, label="RMS, dBFS", aspect=40, pad=0.01)
    return figure


def _draw_lengths(axes: Axes, report: Report) -> None:
    minutes = {
        subset: [t.seconds / 60 for t in report.tracks if t.subset == subset and t.seconds]
        for subset in _SUBSET_COLOURS
    }
    # From zero, as equal lengths would be spread over the width.
    longest = max((length for lengths in minutes.values() for length in lengths), default=1.0)
    colours = list(_SUBSET_COLOURS.values())
    axes.hist(list(minutes.values()), bins=20, range=(0, longest), stacked=True, color=colours)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Length", xlabel="minutes", ylabel="tracks")


def _draw_dots(
    axes: Axes, report: Report, names: Sequence[str], value: Callable[[FileMeasures], float]
) -> None:
    """Draw a dot per file, spread over the width of its column."""
    for column, name in enumerate(names):
        found = [
            (track.subset, value(track.files[name]))
            for track in report.tracks
            if name in track.files
        ]
        places = column + 0.35 * np.linspace(-1, 1, len(found)) if len(found) > 1 else [column]
        levels = [level for _, level in found]
        colours = [_SUBSET_COLOURS[subset] for subset, _ in found]
        axes.scatter(places[: len(found)], levels, s=14, alpha=0.8, linewidth=0, c=colours)
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="y", alpha=0.25)


def _draw_mixtures(axes: Axes, report: Report) -> None:
    found = [
        (track.subset, max(*track.mixture.error_db, _EXACT_DB))
        for track in report.tracks
        if track.mixture
    ]
    colours = [_SUBSET_COLOURS[subset] for subset, _ in found]
    axes.scatter(range(len(found)), [error for _, error in found], s=14, linewidth=0, c=colours)
    for limit in (MIXTURE_NOTE_DB, MIXTURE_WARNING_DB):
        axes.axhline(limit, color="0.5", linestyle="--", linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25)
    axes.set(
        title="Mixture minus sum of stems",
        xlabel="track",
        ylabel=f"dB of the mixture ({_EXACT_DB:g}: exact)",
        ylim=(_EXACT_DB - 4, 6),
    )


def _draw_findings(axes: Axes, report: Report) -> None:
    kinds = Counter((found.severity, found.name) for found in report.findings)
    # Findings are sorted from errors to notes; bars are drawn from below.
    for row, ((severity, _), count) in enumerate(reversed(kinds.items())):
        axes.barh(row, count, 0.5, color=_SEVERITY_COLOURS[severity])
        axes.text(count, row, f" {count} {severity}{'s' * (count != 1)}", va="center", fontsize=9)
    axes.set_yticks(range(len(kinds)), [name for _, name in reversed(kinds)])
    axes.set_ylim(-1, max(5, len(kinds)))
    axes.set_xlim(0, 1.5 * max(kinds.values(), default=1))
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("Findings" if kinds else "No findings")
