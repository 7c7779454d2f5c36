"""What is compared: runs, and systems that are one run or several that differ by their seed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.comparison.history import History
from lightning_modules.comparison.settings import identity
from lightning_modules.evaluation.scores import METRICS, TrackScores, aggregate, finite_mean
from lightning_modules.evaluation.statistics import Spread, median_interval, spread

USDR = "uSDR"
# "Normalised": less what the mixture has. Grais and Plumbley 2017, section 4 and Figure 2, leave
# SAR as it is, which the mixture has plenty of.
NORMALISED = {"nSDR": "SDR", "nSIR": "SIR"}
KINDS = (*METRICS, USDR, *NORMALISED)
STREAMS = ("vocals", "drums", "bass", "other")
PAIR = ("vocals", "accompaniment")


@dataclass
class Run:
    """One run, or one folder of scores.

    Attributes:
        name: What it is called.
        place: Where it was read from.
        tracks: Scores of its tracks; empty if only figures of the whole data set are known.
        mixture: Scores of the mixture as estimate on the same tracks, as far as they are there.
        config: Its config; empty if it is not known.
        history: What it logged while it was trained.
        figures: Source -> metric -> dB over the data set, for a run without scores of tracks.
        notes: What a reader has to know of it.
    """

    name: str
    place: str
    tracks: list[TrackScores] = field(default_factory=list)
    mixture: list[TrackScores] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        """Its sources, in the order vocals, drums, bass, other, then any others."""
        return ordered([*self.figures, *(name for track in self.tracks for name in track.frames)])

    def values(self, kind: str, source: str) -> dict[str, float]:
        """Find the figure of each track.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Track -> median over its frames, or of uSDR the whole track's, dB. Only tracks with
            a finite figure; of a normalised one, with one of the mixture too.
        """
        if kind in NORMALISED:
            own = _of_tracks(self.tracks, NORMALISED[kind], source)
            mixture = _of_tracks(self.mixture, NORMALISED[kind], source)
            return {name: own[name] - mixture[name] for name in own if name in mixture}
        return _of_tracks(self.tracks, kind, source)

    def spread(self, kind: str, source: str) -> Spread:
        """Describe a figure over tracks.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Its spread; its headline alone for a run without scores of tracks.
        """
        if not self.tracks:
            known = self.figures.get(source, {}).get(kind, math.nan)
            median, mean = (math.nan, known) if kind == USDR else (known, math.nan)
            return Spread(median, mean, math.nan, math.nan, 0)
        return spread(list(self.values(kind, source).values()))


@dataclass
class System:
    """What has a line of its own: a run, or runs that differ by nothing but their seed.

    Attributes:
        name: What it is called.
        runs: Its runs.
        bound: Whether it is no system but a bound, such as the mixture or an ideal mask.
    """

    name: str
    runs: list[Run]
    bound: bool = False

    @property
    def sources(self) -> list[str]:
        """The sources that any of its runs has."""
        return ordered([source for run in self.runs for source in run.sources])

    @property
    def track_names(self) -> set[str]:
        """The tracks that all its runs have scores of."""
        names = [{track.name for track in run.tracks} for run in self.runs]
        return set.intersection(*names)

    def values(self, kind: str, source: str) -> dict[str, float]:
        """Find the figure of each track, averaged over runs.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Track -> dB, for the tracks that have a figure in each run.
        """
        return {name: finite_mean(row) for name, row in self._matrix(kind, source).items()}

    def spread(self, kind: str, source: str) -> Spread:
        """Describe a figure over tracks, averaged over runs.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Mean over runs of each run's spread; `tracks` is the least of any.
        """
        found = [run.spread(kind, source) for run in self.runs]
        if len(found) == 1:
            return found[0]
        return Spread(
            median=finite_mean([one.median for one in found]),
            mean=finite_mean([one.mean for one in found]),
            lower=finite_mean([one.lower for one in found]),
            upper=finite_mean([one.upper for one in found]),
            tracks=min(one.tracks for one in found),
        )

    def seed_deviation(self, kind: str, source: str) -> float:
        """Measure how far runs are apart that differ by their seed.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Standard deviation of the runs' headlines, dB; NaN for fewer than two.
        """
        headlines = [headline(kind, run.spread(kind, source)) for run in self.runs]
        found = [figure for figure in headlines if math.isfinite(figure)]
        return float(np.std(found, ddof=1)) if len(found) > 1 else math.nan

    def interval(self, kind: str, source: str) -> tuple[float, float]:
        """Bootstrap the confidence interval of the median over tracks.

        Args:
            kind: One of ``KINDS``.
            source: Name of the source.

        Returns:
            Its ends, dB; NaN if there are fewer than six tracks.
        """
        rows = list(self._matrix(kind, source).values())
        return median_interval(np.array(rows).T) if rows else (math.nan, math.nan)

    def frames(self, source: str) -> tuple[int, int]:
        """Count frames in all runs.

        Args:
            source: Name of the source.

        Returns:
            Frames that do not count, and all.
        """
        tracks = [track for run in self.runs for track in run.tracks if source in track.frames]
        skipped = sum(track.skipped_frames[source] for track in tracks)
        return skipped, sum(len(track.frames[source]["SDR"]) for track in tracks)

    def _matrix(self, kind: str, source: str) -> dict[str, list[float]]:
        """Track -> a figure of each run, for the tracks that have one in each."""
        found = [run.values(kind, source) for run in self.runs]
        return {
            name: [values[name] for values in found]
            for name in found[0]
            if all(name in values for values in found)
        }


def headline(kind: str, spread: Spread) -> float:
    """Choose the figure that a table of one figure a system has.

    Args:
        kind: One of ``KINDS``.
        spread: Its spread over tracks.

    Returns:
        The median over tracks, as SiSEC 2018 gives it; of uSDR the mean, as the Music Demixing
        challenges do. dB.
    """
    return spread.mean if kind == USDR else spread.median


def ordered(sources: Iterable[str]) -> list[str]:
    """Order names of sources.

    Args:
        sources: The names, any of them as often as you like.

    Returns:
        Each once, in the order vocals, drums, bass, other, then the others as they come.
    """
    found = list(dict.fromkeys(sources))
    known = [name for name in STREAMS if name in found]
    return known + [name for name in found if name not in known]


def _of_tracks(tracks: Sequence[TrackScores], metric: str, source: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for track in tracks:
        if metric == USDR:
            value = track.usdr.get(source, math.nan)
        elif source in track.frames:
            value = _finite_median(track.frames[source][metric])
        else:
            continue
        if math.isfinite(value):
            values[track.name] = value
    return values


def _finite_median(frames: NDArray[np.float64]) -> float:
    found = frames[np.isfinite(frames)]
    return float(np.median(found)) if found.size else math.nan


# ----------------------------------------------------------------------- together


def pool(runs: Sequence[Run]) -> list[System]:
    """Bring together runs that differ by their seed alone.

    Args:
        runs: The runs. Those without a config stay alone.

    Returns:
        A system each, in the order of their first runs; one of several is called what their
        names have in common.
    """
    groups: dict[str, list[Run]] = {}
    for number, run in enumerate(runs):
        key = identity(run.config) if run.config else f"alone {number}"
        groups.setdefault(key, []).append(run)
    return [System(_common_name(group), group) for group in groups.values()]


def _common_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    first, last = min(run.name for run in runs), max(run.name for run in runs)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    common = first[:same].rstrip("-_ .=+/")
    return f"{re.sub('[-_ .=+/]*seed$', '', common) or common or first} x{len(runs)}"


def mixture_of(systems: Sequence[System]) -> System | None:
    """Make a bound of the mixture scores that runs bring along.

    Args:
        systems: The systems.

    Returns:
        The mixture on every track that any of them has it for; None if none has.
    """
    found: dict[str, TrackScores] = {}
    for run in (run for system in systems for run in system.runs):
        for track in run.mixture:
            held = found.get(track.name)
            # The run with the most sources has the say: four beside accompaniment, say.
            if held is None or len(track.frames) > len(held.frames):
                found[track.name] = track
    if not found:
        return None
    tracks = [found[name] for name in sorted(found)]
    return System("mixture", [Run("mixture", "", tracks)], bound=True)


def keep_tracks(systems: Iterable[System], names: set[str]) -> None:
    """Restrict scores to some tracks.

    Args:
        systems: The systems; their runs change.
        names: The tracks to keep.
    """
    for run in (run for system in systems for run in system.runs):
        run.tracks = [track for track in run.tracks if track.name in names]


def notes_of(system: System) -> list[str]:
    """Collect what is to be said of a system.

    Args:
        system: The system.

    Returns:
        A line each.
    """
    lines = [f"{run.name}: {note}" for run in system.runs for note in run.notes]
    for run in system.runs:
        for note, names in aggregate(run.tracks).notes.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(f"{run.name}: {note} ({', '.join(names[:3])}{more})")
    return list(dict.fromkeys(lines))
