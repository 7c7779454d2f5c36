"""Plots of scores: box plots, heat maps over tracks, and training curves."""

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lightning_modules.evaluation.scores import METRICS, TrackScores, aggregate
from lightning_modules.plots import style
from lightning_modules.plots.limits import axis_limits, mark_beyond, whiskers
from lightning_modules.plots.style import (
    BASELINE_COLOUR,
    HEAT_COLOURS,
    MIXTURE_COLOUR,
    MODEL_COLOUR,
    new_figure,
)

_MODEL_FACE = "#a9c4e6"
_DOT: dict[str, Any] = {"marker": "o", "markersize": 3.2, "linestyle": "", "color": "0.25"}
_MOST_MARKERS = 12
_LineStyle = Literal["-", "--", "-.", ":"]
_LINES: tuple[_LineStyle, ...] = ("-", "--", "-.", ":")
# Range of a heat map's colours, robust against single failed tracks.
_HEAT_QUANTILES = (0.02, 0.98)


def score_boxplot(
    tracks: Sequence[TrackScores], baseline_tracks: Sequence[TrackScores], title: str
) -> Figure:
    """Draw the spread of scores over tracks: a panel per metric with a box per source.

    A track's score is the median over its frames. Boxes extend from the lower to the upper
    quartile, whiskers to the farthest track within 1.5 times that distance; a dot is a track.
    Arrows at the ends of an axis have the farthest value beyond it, blue of the model and grey of
    the mixture: its SAR, which consists of rounding errors, would compress all others.

    Args:
        tracks: Scores of a model.
        baseline_tracks: Scores of the mixture as estimate, drawn in grey behind; may be empty.
        title: Title of the figure.

    Returns:
        The figure, 1200 pixels wide.
    """
    sources = list(aggregate(tracks).scores)
    medians = [track.medians for track in tracks]
    baseline_medians = [track.medians for track in baseline_tracks]
    figure = new_figure(title, 4.5)
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        values = [_track_values(medians, source, metric) for source in sources]
        mixture = [_track_values(baseline_medians, source, metric) for source in sources]
        limits = axis_limits(values, mixture)
        axes.set_ylim(limits)
        for position, (own, behind) in enumerate(zip(values, mixture, strict=True)):
            _draw_box(axes, behind, position, 0.8, MIXTURE_COLOUR, BASELINE_COLOUR)
            _draw_box(axes, own, position, 0.45, _MODEL_FACE, MODEL_COLOUR)
            _draw_dots(axes, own, position, limits)
            mark_beyond(axes, own, position, "y", 0, MODEL_COLOUR)
            is_marked = any(not limits[0] <= value <= limits[1] for value in own)
            mark_beyond(axes, behind, position, "y", int(is_marked))
        axes.set_ylim(limits)
        axes.set_title(metric)
        axes.set_xticks(range(len(sources)), sources)
        style.frame(axes, "y")
    figure.axes[0].set_ylabel("median over frames (dB)")
    handles: list[Artist] = [
        Patch(facecolor=_MODEL_FACE, edgecolor=MODEL_COLOUR, label="model"),
        Line2D([], [], label="one track", **_DOT),
        Line2D([], [], label="track outside; ▲ farthest", **_DOT | {"markerfacecolor": "white"}),
    ]
    if baseline_tracks:
        label = "mixture as estimate"
        handles.insert(1, Patch(facecolor=MIXTURE_COLOUR, edgecolor=BASELINE_COLOUR, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def system_boxplot(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    bounds: Sequence[str],
    title: str,
) -> Figure:
    """Draw the scores of systems side by side, as the SiSEC campaigns do.

    A row of panels per source, a column per metric; in each a box per system: quartiles and median
    over tracks, whiskers to the farthest track within 1.5 times their distance. Tracks farther away
    are not drawn, because one failed track would compress the rest. Arrows have the farthest value
    of boxes beyond an axis, such as the mixture's SAR.

    Args:
        values: Source -> metric -> system -> scores of its tracks, dB; systems from
            top to bottom.
        bounds: Systems to draw in grey, such as the mixture.
        title: Title of the figure.

    Returns:
        The figure, 1200 pixels wide.
    """
    kinds = list(dict.fromkeys(kind for panels in values.values() for kind in panels))
    found = [system for panels in values.values() for each in panels.values() for system in each]
    systems = list(dict.fromkeys(found))
    colours = style.colours_of([name for name in systems if name not in bounds])
    height = 1.3 + len(values) * (0.45 + 0.3 * len(systems))
    figure = new_figure(title, height)
    grid = figure.subplots(len(values), len(kinds), sharex="col", sharey="row", squeeze=False)
    limits = {kind: _limits_of(values, kind, bounds) for kind in kinds}
    for row, (source, panels) in enumerate(values.items()):
        here = [name for name in systems if any(name in each for each in panels.values())]
        for column, kind in enumerate(kinds):
            axes = grid[row, column]
            for position, name in enumerate(here):
                colour = colours.get(name, BASELINE_COLOUR)
                each = list(panels.get(kind, {}).get(name, ()))
                _draw_box(axes, each, position, 0.62, style.paler(colour), colour, "horizontal")
            axes.set_yticks(range(len(here)), here)
            axes.set_ylim(len(here) - 0.4, -0.6)
            style.frame(axes, "x")
            axes.tick_params(axis="y", left=column == 0, labelleft=column == 0)
            axes.set_xlim(limits[kind])
            for position, name in enumerate(here):
                if ends := panels.get(kind, {}).get(name):
                    mark_beyond(axes, whiskers(ends), position, "x", colour="0.25")
            if row == 0:
                axes.set_title(kind, fontsize=11)
            if row == len(values) - 1:
                axes.set_xlabel(f"{kind} (dB)")
        grid[row, 0].set_ylabel(source, fontsize=11)
    return figure


def _limits_of(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    kind: str,
    bounds: Sequence[str],
) -> tuple[float, float]:
    """Limits of a metric's column of panels."""
    found = [item for panels in values.values() for item in panels.get(kind, {}).items()]
    return axis_limits(
        [scores for name, scores in found if name not in bounds],
        [scores for name, scores in found if name in bounds],
    )


def track_heatmap(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], label: str, title: str
) -> Figure:
    """Draw a score of every track: a panel per source, a column per system, a row per track.

    Args:
        values: Source -> system -> track -> dB.
        label: Label of the colour bar.
        title: Title of the figure.

    Returns:
        The figure, 1200 pixels wide; tracks sorted from the best mean to the worst, missing scores
        in grey.
    """
    by_track: dict[str, list[float]] = {}
    for systems in values.values():
        for tracks in systems.values():
            for track, value in tracks.items():
                by_track.setdefault(track, []).append(value)
    names = sorted(by_track, key=lambda track: -float(np.mean(by_track[track])))
    everything = [value for found in by_track.values() for value in found] or [0.0]
    low, high = np.quantile(everything, _HEAT_QUANTILES)

    figure = new_figure(title, 2.6 + 0.2 * len(names))
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (source, systems) in zip(panels, values.items(), strict=True):
        cells = [[tracks.get(name, math.nan) for tracks in systems.values()] for name in names]
        image = axes.imshow(
            np.ma.masked_invalid(np.array(cells, dtype=float).reshape(len(names), len(systems))),
            aspect="auto",
            interpolation="nearest",
            cmap=HEAT_COLOURS,
            vmin=low,
            vmax=max(high, low + 1e-6),
        )
        axes.set_title(source, fontsize=11)
        axes.set_xticks(range(len(systems)), list(systems), rotation=90)
        # Thin lines between the columns.
        axes.set_xticks(np.arange(len(systems) - 1) + 0.5, minor=True)
        axes.grid(which="minor", axis="x", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, ax=panels, label=label, extend="both", aspect=40, pad=0.01)
    return figure


def training_curves(
    curves: Mapping[str, Mapping[str, Sequence[Mapping[int, float]]]], label: str, title: str
) -> Figure:
    """Draw training curves: a panel per source and one for their mean.

    Args:
        curves: Panel -> system -> for each of its runs, step -> value. Several runs are thin lines,
            with a thick line for their mean over common steps.
        label: Label of the y axis, with the unit.
        title: Title of the figure.

    Returns:
        The figure, 1200 pixels wide.
    """
    systems = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    colours = style.colours_of(systems)
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = new_figure(title, 1.2 + 2.7 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes, (panel, found) in zip(grid, curves.items(), strict=False):
        for name, runs in found.items():
            _draw_curve(axes, runs, colours[name], _LINES[systems.index(name) % len(_LINES)])
        axes.set_title(panel, fontsize=11)
        style.frame(axes, "both")
        axes.set_xlabel("optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelbottom=True)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    for row in range(rows):
        grid[row * columns].set_ylabel(label)
    handles = [
        Line2D([], [], color=colours[name], linestyle=_LINES[number % len(_LINES)], label=name)
        for number, name in enumerate(systems)
    ]
    columns = min(4, len(systems))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _draw_curve(
    axes: Axes, runs: Sequence[Mapping[int, float]], colour: str, style: _LineStyle
) -> None:
    """Draw a system's runs, and their mean if there are several."""
    alone = len(runs) == 1
    for run in runs:
        axes.plot(
            list(run),
            list(run.values()),
            style,
            color=colour,
            linewidth=1.8 if alone else 0.8,
            alpha=1.0 if alone else 0.5,
            marker=_marker(run),
            markersize=4 if alone else 2.5,
        )
    shared = [step for step in runs[0] if all(step in run for run in runs)]
    if not alone and shared:
        means = [float(np.mean([run[step] for run in runs])) for step in shared]
        axes.plot(
            shared, means, style, color=colour, linewidth=2.2, marker=_marker(shared), markersize=5
        )


def _marker(points: Sized) -> str:
    """Marker for short curves, which may be a single point."""
    return "o" if len(points) <= _MOST_MARKERS else ""


def _track_values(
    medians: Sequence[dict[str, dict[str, float]]], source: str, metric: str
) -> list[float]:
    """The finite scores of the tracks."""
    values = [track[source][metric] for track in medians if source in track]
    return [value for value in values if math.isfinite(value)]


def _draw_box(
    axes: Axes,
    values: list[float],
    position: int,
    width: float,
    face: str | tuple[float, float, float],
    edge: str,
    orientation: Literal["vertical", "horizontal"] = "vertical",
) -> None:
    """Draw one box, or nothing without values."""
    if not values:
        return
    line = {"color": edge}
    axes.boxplot(
        [values],
        positions=[position],
        widths=width,
        orientation=orientation,
        patch_artist=True,
        showfliers=False,
        manage_ticks=False,
        boxprops={"facecolor": face, "edgecolor": edge},
        medianprops={"color": edge, "linewidth": 2},
        whiskerprops=line,
        capprops=line,
    )


def _draw_dots(axes: Axes, values: list[float], position: int, limits: tuple[float, float]) -> None:
    """Draw a dot for each value; values outside the limits are hollow dots on the limit."""
    heights = np.clip(values, *limits)
    beyond = heights != values
    # Spread sideways to show overlapping dots.
    places = position + (np.linspace(-0.13, 0.13, len(values)) if len(values) > 1 else np.zeros(1))
    for chosen, face in ((~beyond, _DOT["color"]), (beyond, "white")):
        if chosen.any():  # the extent of an unclipped line without points is infinite
            axes.plot(
                places[chosen],
                heights[chosen],
                clip_on=False,
                zorder=4,
                **_DOT | {"markerfacecolor": face},
            )
