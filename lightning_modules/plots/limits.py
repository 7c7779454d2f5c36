"""Axes of score plots: limits that no outlier stretches, and marks for what lies beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

# Values are within this number of quartile distances (at least 3 dB each) from the quartiles.
_FENCE, _LEAST_SPREAD_DB = 3.0, 3.0
# Bounds, such as the mixture, are shown if their median is this close to the systems.
_NEAR_DB = 15.0
_MARGIN = 0.05
_ARROWS = {("y", True): "▲", ("y", False): "▼", ("x", True): "▶", ("x", False): "◀"}


def axis_limits(
    systems: Iterable[Sequence[float]], bounds: Iterable[Sequence[float]] = ()
) -> tuple[float, float]:
    """Choose the limits of an axis so that single values do not compress the rest.

    Args:
        systems: Scores over tracks, a box each, dB. Their whiskers are shown, as far as they are
            no outliers of all values together.
        bounds: Scores of bounds, which extend the axis if they are near the systems.

    Returns:
        Limits in dB.
    """
    shown = [list(values) for values in systems if len(values)]
    others = [list(values) for values in bounds if len(values)]
    shown = shown or others or [[0.0, 1.0]]
    lower, upper = np.quantile(np.concatenate(shown), (0.25, 0.75))
    reach = _FENCE * max(upper - lower, _LEAST_SPREAD_DB)
    low, high = _within(_span([whiskers(each) for each in shown]), lower - reach, upper + reach)
    least, most = low - _NEAR_DB, high + _NEAR_DB
    near = [whiskers(each) for each in others if least < np.median(each) < most]
    low, high = _within(_span([(low, high), *near]), least, most)
    margin = _MARGIN * max(high - low, 1.0)
    return low - margin, high + margin


def _span(boxes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return float(min(low for low, _ in boxes)), float(max(high for _, high in boxes))


def _within(limits: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    low, high = (float(np.clip(limit, least, most)) for limit in limits)
    return low, high


def whiskers(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a box plot's whiskers: the farthest values within 1.5 quartile distances."""
    found = np.asarray(values, float)
    lower, upper = np.quantile(found, (0.25, 0.75))
    reach = 1.5 * (upper - lower)
    inside = found[(found >= lower - reach) & (found <= upper + reach)]
    return float(inside.min()), float(inside.max())


def mark_beyond(
    axes: Axes, values: Sequence[float], position: float, axis: Literal["x", "y"], line: int = 0,
    colour: str = "0.25",
) -> None:  # fmt: skip
    """Mark values beyond an axis by an arrow at its end and the farthest value.

    Args:
        axes: Axes whose limits are set.
        values: Scores over tracks.
        position: Place of their box on the other axis.
        axis: The axis of the scores.
        line: Number of the line of text from the end of a ``y`` axis.
        colour: Colour of the mark.
    """
    limits = axes.get_ylim() if axis == "y" else axes.get_xlim()
    for end, is_upper in zip(limits, (False, True), strict=True):
        beyond = [value for value in values if (value > end) == is_upper and value != end]
        if not beyond:
            continue
        arrow, value = _ARROWS[axis, is_upper], max(beyond) if is_upper else min(beyond)
        text = f"{value:.0f} {arrow}" if axis == "x" and is_upper else f"{arrow} {value:.0f}"
        inwards = -1 if is_upper else 1
        axes.annotate(
            text,
            (position, end) if axis == "y" else (end, position),
            xytext=(0, inwards * (2 + 10 * line)) if axis == "y" else (inwards * 2, 0),
            textcoords="offset points",
            ha="center" if axis == "y" else ("right" if is_upper else "left"),
            va="center" if axis == "x" else ("top" if is_upper else "bottom"),
            fontsize=8,
            color=colour,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
