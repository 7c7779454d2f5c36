"""Limits of score plots, and marks of what lies beyond."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_modules.plots.limits import axis_limits, mark_beyond, whiskers


def test_far_bounds_and_outliers_do_not_stretch_an_axis() -> None:
    systems = [[5.0, 6.0, 7.0], [6.0, 7.0, 8.0]]
    assert axis_limits(systems) == pytest.approx((4.85, 8.15))
    low, high = axis_limits(systems, [[-3.0, -2.0], [120.0, 203.0]])
    assert low == pytest.approx(-3 - 0.05 * 11)
    assert high == pytest.approx(8 + 0.05 * 11)
    low, _ = axis_limits([*systems, [6.0, -69.0]])
    assert -10 < low < 0, "one failed track of two"
    assert axis_limits([], [[1.0]])[0] < 1 < axis_limits([], [[1.0]])[1]
    assert np.isfinite(axis_limits([])).all()


def test_whiskers_are_those_of_the_boxes() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 40.0]
    axes = Figure().subplots()
    drawn = axes.boxplot([values], showfliers=False)["caps"]
    assert whiskers(values) == tuple(float(cap.get_ydata()[0]) for cap in drawn)


def test_marks_have_the_farthest_value() -> None:
    axes = Figure().subplots()
    axes.set(xlim=(-1, 1), ylim=(0, 10))
    mark_beyond(axes, [5.0, 10.0, 11.0, 203.4], 2, "y")
    mark_beyond(axes, [-5.0, -70.6], 3, "y")
    mark_beyond(axes, [0.5, 8.0], 1, "x")
    assert [(text.get_text(), text.xy) for text in axes.texts] == [  # type: ignore[attr-defined]
        ("▲ 203", (2, 10)),
        ("▼ -71", (3, 0)),
        ("8 ▶", (1, 1)),
    ]
