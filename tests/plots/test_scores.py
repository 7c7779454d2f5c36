"""Plots of scores show the given values."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_modules.evaluation.scores import METRICS, TrackScores
from lightning_modules.plots import scores as score_plots
from lightning_modules.plots import style


def scores(name: str, shift: float = 0.0) -> TrackScores:
    frames = {
        source: {metric: np.array([1.0, 2.0, np.nan]) + shift for metric in METRICS}
        for source in ("other", "vocals")
    }
    return TrackScores(name, frames, {})


def test_boxplot(tmp_path: Path) -> None:
    tracks = [scores(str(index), float(index)) for index in range(9)] + [scores("failed", -60.0)]
    tracks[0].frames["vocals"]["SIR"][:] = np.inf
    figure = score_plots.score_boxplot(tracks, [scores("mixture", -3.0)], "title")
    assert [axes.get_title() for axes in figure.axes] == list(METRICS)
    sdr = figure.axes[0]
    assert [label.get_text() for label in sdr.get_xticklabels()] == ["vocals", "other"]
    assert len(sdr.patches) == 4  # one box of the model and one of the mixture per source
    # The failed track does not change the limits; it is a hollow dot on the edge.
    lowest = sdr.get_ylim()[0]
    assert -3 < lowest < 1
    hollow = [line for line in sdr.lines if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_ydata()).tolist() for line in hollow] == [[lowest]] * 2
    style.save(figure, tmp_path / "boxes.png")


@pytest.mark.slow
def test_boxplot_without_scores(tmp_path: Path) -> None:
    empty = scores("a")
    for metrics in empty.frames.values():
        for values in metrics.values():
            values[:] = np.nan
    for tracks in ([], [empty], [scores("a")]):
        style.save(score_plots.score_boxplot(tracks, [], "title"), tmp_path / "boxes.png")


# --------------------------------------------------------------- many systems


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_boxplots_of_systems(tmp_path: Path) -> None:
    values = {
        "vocals": {
            "SDR": {"one": [1.0, 2.0, 3.0, 40.0], "two": [5.0], "mixture": [-3.0, -2.0]},
            "SIR": {"one": [7.0, 8.0]},
        },
        "accompaniment": {"SDR": {"two": [9.0, 10.0]}, "SIR": {}},
    }
    figure = score_plots.system_boxplot(values, ["mixture"], "title")
    vocals, sir, accompaniment, _ = figure.axes
    assert [vocals.get_title(), sir.get_title()] == ["SDR", "SIR"]
    assert accompaniment.get_xlabel() == "SDR (dB)"
    assert [vocals.get_ylabel(), accompaniment.get_ylabel()] == ["vocals", "accompaniment"]
    assert labels(vocals) == ["one", "two", "mixture"]
    assert labels(accompaniment) == ["two"], "only systems with the source are shown"
    assert vocals.get_ylim()[0] > vocals.get_ylim()[1], "the first system is on top"
    assert len(vocals.patches) == 3
    middles = [box.get_path().get_extents() for box in vocals.patches]
    assert (middles[0].x0, middles[0].x1) == (1.75, 12.25)  # quartiles of the first
    assert vocals.get_xlim()[1] < 40, "an outlier does not change the limits"
    edges = [to_hex(box.get_edgecolor()) for box in vocals.patches]
    assert len(set(edges)) == 3
    assert edges[2] == to_hex("0.55")
    for suffix in ("png", "svg"):
        style.save(figure, tmp_path / f"boxes.{suffix}")
    assert imread(tmp_path / "boxes.png").shape[1] == 1200
    assert "<svg" in (tmp_path / "boxes.svg").read_text()[:500]


def test_heat_map_sorts_tracks_and_masks_missing_scores(tmp_path: Path) -> None:
    values = {
        "vocals": {"one": {"low": 1.0, "high": 9.0}, "two": {"high": 8.0}},
        "drums": {"one": {"low": -50.0, "high": 7.0}},
    }
    figure = score_plots.track_heatmap(values, "SDR (dB)", "title")
    vocals, drums, bar = figure.axes
    assert labels(vocals) == ["high", "low"]
    assert [text.get_text() for text in vocals.get_xticklabels()] == ["one", "two"]
    cells = vocals.images[0].get_array()
    assert isinstance(cells, np.ma.MaskedArray)
    assert cells.filled(math.nan).tolist() == [
        [9.0, 8.0],
        [1.0, pytest.approx(math.nan, nan_ok=True)],
    ]
    assert vocals.images[0].get_clim() == drums.images[0].get_clim()
    assert bar.get_ylabel() == "SDR (dB)"
    style.save(figure, tmp_path / "tracks.png")
    assert imread(tmp_path / "tracks.png").shape[1] == 1200


def drawn(figure: Figure, panel: str) -> list[tuple[list[float], list[float]]]:
    (axes,) = [axes for axes in figure.axes if axes.get_title() == panel]
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    ]


def test_training_curves_of_seeds_and_their_mean(tmp_path: Path) -> None:
    curves = {
        "mean": {"one": [{1: 0.0, 2: 2.0}], "two": [{1: 1.0, 2: 3.0}, {2: 5.0, 3: 9.0}]},
        "vocals": {"one": [{1: 4.0}]},
    }
    figure = score_plots.training_curves(curves, "SDR (dB)", "title")
    assert drawn(figure, "mean") == [
        ([1, 2], [0, 2]),
        ([1, 2], [1, 3]),
        ([2, 3], [5, 9]),
        ([2], [4]),  # only the second step was logged by both seeds
    ]
    assert drawn(figure, "vocals") == [([1], [4])]
    assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.lines)
    assert figure.axes[0].get_ylabel() == "SDR (dB)"
    assert figure.axes[0].get_xlabel() == "optimiser step"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    style.save(figure, tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape[1] == 1200


@pytest.mark.slow
def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys, lightning_modules.plots.sound, lightning_modules.plots.scores\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
