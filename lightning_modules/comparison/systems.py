"""Systems to compare: a system is one run, or several that differ only by their seed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_modules.comparison.history import History
from lightning_modules.comparison.settings import settings_key
from lightning_modules.evaluation.baselines import constant_gain_tracks
from lightning_modules.evaluation.scores import (
    METRICS,
    NEAR_SILENT,
    TrackScores,
    aggregate,
    finite_mean,
    finite_median,
    ordered_sources,
)
from lightning_modules.evaluation.statistics import Spread, median_interval, spread

USDR = "uSDR"
# Normalised: minus the score of the mixture. Grais and Plumbley 2017, section 4 and Figure 2, do
# not normalise SAR, which is high for the mixture.
NORMALISED = {"nSDR": "SDR", "nSIR": "SIR"}
ALL_METRICS = (*METRICS, USDR, *NORMALISED)


# Fields of ``TrackScores`` on which scores depend -> their names and units in messages.
SCORED_WITH = {
    "window_seconds": ("length of frames", " s"),
    "hop_seconds": ("distance of frames", " s"),
    "sample_rate": ("sample rate", " Hz"),
    "channels": ("channels", ""),
}


@dataclass
class Run:
    """One run, or one folder of scores.

    Attributes:
        name: Its name in tables.
        path: Where it was read from.
        tracks: Scores of its tracks; empty if only scores of the data set are known.
        mixture: Scores of the mixture as estimate on the same tracks, as far as available.
        config: Its config; empty if unknown.
        history: What it logged during training.
        totals: Source -> metric -> dB over the data set, for a run without scores of tracks.
        notes: Remarks for the reader.
    """

    name: str
    path: str
    tracks: list[TrackScores] = field(default_factory=list)
    mixture: list[TrackScores] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=dict)
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """Its sources, in the usual order."""
        names = (name for track in self.tracks for name in track.frames)
        return ordered_sources([*self.totals, *names])

    def values(self, metric: str, source: str) -> dict[str, float]:
        """Score of each track: median over its frames, or uSDR of the whole track.

        Returns:
            Track -> dB, only of tracks with a finite score; for normalised metrics, also of the
            mixture.
        """
        if metric not in NORMALISED:
            return _track_values(self.tracks, metric, source)
        own = _track_values(self.tracks, NORMALISED[metric], source)
        mixture = _track_values(self.mixture, NORMALISED[metric], source)
        return {name: own[name] - mixture[name] for name in own if name in mixture}

    def scored_with(self, name: str) -> dict[str, Any]:
        """Value of a field of ``SCORED_WITH`` by track, as far as known."""
        values = {track.name: getattr(track, name) for track in self.tracks}
        return {track: value for track, value in values.items() if value is not None}

    def spread(self, metric: str, source: str) -> Spread:
        """Spread of a metric over tracks; only the headline for a run without scores of tracks."""
        if self.tracks:
            return spread(list(self.values(metric, source).values()))
        known = self.totals.get(source, {}).get(metric, math.nan)
        median, mean = (math.nan, known) if metric == USDR else (known, math.nan)
        return Spread(median, mean, math.nan, math.nan, 0)


@dataclass
class System:
    """A row of the tables: a run, or runs that differ only by their seed.

    Attributes:
        name: Its name in tables.
        runs: Its runs.
        bound: Whether it is a bound, such as the mixture or an ideal mask.
    """

    name: str
    runs: list[Run]
    bound: bool = False

    @property
    def sources(self) -> list[str]:
        """The sources of all its runs."""
        return ordered_sources(source for run in self.runs for source in run.sources)

    @property
    def track_names(self) -> set[str]:
        """The tracks that all its runs have scores of."""
        return set.intersection(*({track.name for track in run.tracks} for run in self.runs))

    def values(self, metric: str, source: str) -> dict[str, float]:
        """Score of each track that all runs have a score of, dB, averaged over runs."""
        return {name: finite_mean(row) for name, row in self._matrix(metric, source).items()}

    def spread(self, metric: str, source: str) -> Spread:
        """Mean over runs of the spread over tracks; `tracks` is the smallest of all runs."""
        spreads = [run.spread(metric, source) for run in self.runs]
        return Spread(
            median=finite_mean([spread.median for spread in spreads]),
            mean=finite_mean([spread.mean for spread in spreads]),
            lower=finite_mean([spread.lower for spread in spreads]),
            upper=finite_mean([spread.upper for spread in spreads]),
            tracks=min(spread.tracks for spread in spreads),
        )

    def seed_deviation(self, metric: str, source: str) -> float:
        """Standard deviation of the runs' headlines, dB; NaN for fewer than two."""
        headlines = [headline(metric, run.spread(metric, source)) for run in self.runs]
        found = [value for value in headlines if math.isfinite(value)]
        return float(np.std(found, ddof=1)) if len(found) > 1 else math.nan

    def interval(self, metric: str, source: str) -> tuple[float, float]:
        """Confidence interval of the median over tracks, dB; NaN for fewer than six tracks."""
        rows = list(self._matrix(metric, source).values())
        return median_interval(np.array(rows).T) if rows else (math.nan, math.nan)

    def frames(self, source: str) -> tuple[int, int]:
        """Number of skipped frames and of all frames in all runs."""
        tracks = [track for run in self.runs for track in run.tracks if source in track.frames]
        skipped = sum(track.skipped_frames[source] for track in tracks)
        return skipped, sum(len(track.frames[source]["SDR"]) for track in tracks)

    def _matrix(self, metric: str, source: str) -> dict[str, list[float]]:
        """Track -> score of each run, for the tracks that all runs have a score of."""
        found = [run.values(metric, source) for run in self.runs]
        return {
            name: [values[name] for values in found]
            for name in found[0]
            if all(name in values for values in found)
        }


def headline(metric: str, spread: Spread) -> float:
    """Main score of a system: the median over tracks as in SiSEC 2018, or of uSDR the mean."""
    return spread.mean if metric == USDR else spread.median


def _track_values(tracks: Sequence[TrackScores], metric: str, source: str) -> dict[str, float]:
    values = {}
    for track in tracks:
        if metric == USDR:
            value = track.usdr.get(source, math.nan)
        else:
            value = finite_median(track.frames.get(source, {}).get(metric, ()))
        if math.isfinite(value):
            values[track.name] = value
    return values


def pool(runs: Sequence[Run]) -> list[System]:
    """Group runs that differ only by their seed; runs without a config are not grouped.

    Returns:
        The systems, in the order of their first runs. A group is named after the common beginning
        of its runs' names.
    """
    groups: dict[str, list[Run]] = {}
    for number, run in enumerate(runs):
        key = settings_key(run.config) if run.config else f"alone {number}"
        groups.setdefault(key, []).append(run)
    return [System(_common_name(group), group) for group in groups.values()]


def _common_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    common = os.path.commonprefix([run.name for run in runs]).rstrip("-_ .=+/")  # noqa: RUF071
    first = min(run.name for run in runs)
    return f"{re.sub('[-_ .=+/]*seed$', '', common) or common or first} x{len(runs)}"


def mixture_of(systems: Sequence[System]) -> System | None:
    """Make a bound of the runs' mixture scores; None if there are none."""
    found: dict[str, TrackScores] = {}
    for run in (run for system in systems for run in system.runs):
        for track in run.mixture:
            previous = found.get(track.name)
            # Scores of the most sources are used, such as four stems besides accompaniment.
            if previous is None or len(track.frames) > len(previous.frames):
                found[track.name] = track
    if not found:
        return None
    tracks = [found[name] for name in sorted(found)]
    return System("mixture", [Run("mixture", "", tracks)], bound=True)


def at_constant_gains(mixture: System) -> list[System]:
    """Make bounds of the mixture's scores at constant gains, as far as its files have them."""
    (run,) = mixture.runs
    return [
        System(name, [Run(name, "", tracks)], bound=True)
        for name, tracks in constant_gain_tracks(run.tracks).items()
    ]


def drop_near_silent(runs: Iterable[Run]) -> None:
    """Remove the scores of sources whose references are nearly silent."""
    for run in runs:
        tracks = [*run.tracks, *run.mixture]
        silent = {(track.name, source) for track in tracks for source in track.near_silent}
        for track in tracks:
            for scores in (track, *track.constant_gains.values()):
                for source in [name for name in scores.frames if (track.name, name) in silent]:
                    del scores.frames[source]
                    scores.usdr.pop(source, None)
            track.notes = [note for note in track.notes if not note.endswith(NEAR_SILENT)]


def keep_tracks(systems: Iterable[System], names: set[str]) -> None:
    """Remove the scores of all other tracks."""
    for run in (run for system in systems for run in system.runs):
        run.tracks = [track for track in run.tracks if track.name in names]


def scored_unlike(runs: Iterable[Run]) -> list[str]:
    """Fields of ``SCORED_WITH`` that differ between runs on a track."""
    found = []
    for name in SCORED_WITH:
        known: dict[str, Any] = {}
        for run in runs:
            values = run.scored_with(name)
            if any(known.setdefault(track, value) != value for track, value in values.items()):
                found.append(name)
                break
    return found


def notes_of(system: System) -> list[str]:
    """Notes of a system's runs and of their scores, one line each."""
    lines = [f"{run.name}: {note}" for run in system.runs for note in run.notes]
    lines += [
        f"{run.name}: {line}" for run in system.runs for line in aggregate(run.tracks).note_lines
    ]
    return list(dict.fromkeys(lines))
