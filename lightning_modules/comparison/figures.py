"""Plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from matplotlib.figure import Figure

from lightning_modules.comparison.systems import NORMALISED, System
from lightning_modules.comparison.tables import sources_of
from lightning_modules.evaluation.scores import finite_mean
from lightning_modules.plots import scores

# Grais and Plumbley 2017, Figure 2.
_IMPROVEMENT = (*NORMALISED, "SAR")
_CURVES = {"val/sdr": "SDR of the validation tracks (dB)", "val/loss": "validation loss"}


def figures(systems: Sequence[System], metrics: Sequence[str]) -> dict[str, Figure]:
    """Draw the plots that have content.

    Args:
        systems: The systems and bounds.
        metrics: Metrics to draw, of ``ALL_METRICS``.

    Returns:
        Name -> figure: `scores`, box plots; `improvement`, the same minus the mixture's scores;
        `tracks`, a heat map; `curves` of the trainings.
    """
    ranked = _ranked(systems)
    bounds = [system.name for system in systems if system.bound]
    found: dict[str, Figure] = {}
    plain = [metric for metric in metrics if metric not in NORMALISED]
    if values := _track_scores(ranked, plain):
        title = "Scores over tracks, medians over frames"
        found["scores"] = scores.system_boxplot(values, bounds, title)
    if any(metric in NORMALISED for metric in metrics):
        alone = [system for system in ranked if not system.bound]
        title = "Improvement over the mixture"
        values = _track_scores(alone, [metric for metric in _IMPROVEMENT if metric in metrics])
        found["improvement"] = scores.system_boxplot(values, [], title)
    for metric in metrics[:1]:
        by_source: dict[str, dict[str, dict[str, float]]] = {}
        for source, system in product(sources_of(systems), ranked):
            if track_scores := system.values(metric, source):
                by_source.setdefault(source, {})[system.name] = track_scores
        if by_source:
            title = f"{metric} of each track"
            found["tracks"] = scores.track_heatmap(by_source, f"{metric} (dB)", title)
    for metric, label in _CURVES.items():
        if curves := _curves(ranked, metric):
            found["curves"] = scores.training_curves(curves, label, "Training")
            break
    return found


def _ranked(systems: Sequence[System]) -> list[System]:
    """Systems sorted by mean SDR over the sources that all have, then bounds."""
    shared = [
        source
        for source in sources_of(systems)
        if all(source in system.sources for system in systems if not system.bound)
    ]

    def rank(system: System) -> tuple[bool, float]:
        mean = finite_mean([system.spread("SDR", source).median for source in shared])
        return system.bound, math.inf if math.isnan(mean) else -mean

    return sorted(systems, key=rank)


def _track_scores(
    systems: Sequence[System], metrics: Sequence[str]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Source -> metric -> system -> scores of its tracks; without empty sources."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for source, metric, system in product(sources_of(systems), metrics, systems):
        if values := system.values(metric, source):
            panels = found.setdefault(source, {metric: {} for metric in metrics})
            panels[metric][system.name] = list(values.values())
    return found


def _curves(systems: Sequence[System], metric: str) -> dict[str, dict[str, list[dict[int, float]]]]:
    """Panel -> system -> curve of each run; the first panel is the mean over sources."""
    panels = {"mean over sources": metric}
    panels |= {source: f"{metric}/{source}" for source in sources_of(systems)}
    found: dict[str, dict[str, list[dict[int, float]]]] = {}
    for (panel, name), system in product(panels.items(), systems):
        if logged := [run.history[name] for run in system.runs if name in run.history]:
            found.setdefault(panel, {})[system.name] = logged
    return found
