"""The pictures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_modules.comparison.systems import NORMALISED, System
from lightning_modules.comparison.tables import sources_of
from lightning_modules.evaluation.scores import finite_mean
from lightning_modules.plots import scores

# Grais and Plumbley 2017, Figure 2.
_IMPROVEMENT = (*NORMALISED, "SAR")
_CURVES = {"val/sdr": "SDR of the validation tracks (dB)", "val/loss": "validation loss"}


def figures(systems: Sequence[System], kinds: Sequence[str]) -> dict[str, Figure]:
    """Draw what there is to see.

    Args:
        systems: The systems and bounds.
        kinds: Figures to draw, some of ``KINDS``.

    Returns:
        Name -> picture: `scores`, box plots; `improvement`, the same over the mixture; `tracks`,
        a heat map; `curves`, of the trainings. Those without content are left out.
    """
    ranked = _ranked(systems)
    bounds = [system.name for system in systems if system.bound]
    found: dict[str, Figure] = {}
    plain = [kind for kind in kinds if kind not in NORMALISED]
    if values := _of_tracks(ranked, plain):
        title = "Scores over tracks, medians over frames"
        found["scores"] = scores.system_boxplot(values, bounds, title)
    if any(kind in NORMALISED for kind in kinds):
        alone = [system for system in ranked if not system.bound]
        title = "Improvement over the mixture"
        values = _of_tracks(alone, [kind for kind in _IMPROVEMENT if kind in kinds])
        found["improvement"] = scores.system_boxplot(values, [], title)
    for kind in kinds[:1]:
        by_source = {
            source: {
                system.name: figure for system in ranked if (figure := system.values(kind, source))
            }
            for source in sources_of(systems)
        }
        by_source = {source: each for source, each in by_source.items() if each}
        if by_source:
            title = f"{kind} of each track"
            found["tracks"] = scores.track_heatmap(by_source, f"{kind} (dB)", title)
    for metric, label in _CURVES.items():
        if curves := _curves(ranked, metric):
            found["curves"] = scores.training_curves(curves, label, "Training")
            break
    return found


def _ranked(systems: Sequence[System]) -> list[System]:
    """Systems from the best to the worst by SDR, mean over what they all have, then bounds."""
    shared = [
        source
        for source in sources_of(systems)
        if all(source in system.sources for system in systems if not system.bound)
    ]

    def rank(system: System) -> tuple[bool, float]:
        mean = finite_mean([system.spread("SDR", source).median for source in shared])
        return system.bound, math.inf if math.isnan(mean) else -mean

    return sorted(systems, key=rank)


def _of_tracks(
    systems: Sequence[System], kinds: Sequence[str]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Source -> metric -> system -> figures of its tracks; only what has any."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for source in sources_of(systems):
        for kind in kinds:
            for system in systems:
                if values := system.values(kind, source):
                    panels = found.setdefault(source, {kind: {} for kind in kinds})
                    panels[kind][system.name] = list(values.values())
    return found


def _curves(systems: Sequence[System], metric: str) -> dict[str, dict[str, list[dict[int, float]]]]:
    """Panel -> system -> a curve of each run that logged it, the mean over sources first."""
    panels = {"mean over sources": metric}
    panels |= {source: f"{metric}/{source}" for source in sources_of(systems)}
    found: dict[str, dict[str, list[dict[int, float]]]] = {}
    for panel, name in panels.items():
        for system in systems:
            logged = [run.history[name] for run in system.runs if name in run.history]
            if logged:
                found.setdefault(panel, {})[system.name] = logged
    return found
