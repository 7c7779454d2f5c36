"""Scores of tracks, computed and aggregated.

All figures are in dB. SDR, ISR, SIR and SAR are BSS Eval v4 over frames, of one second unless said
otherwise; a track's figure is the median over its frames, a data set's figure the median over its
tracks (the rule of SiSEC 2018; means on request). uSDR is the whole-track SDR of the Music
Demixing challenges, averaged over tracks. A figure that does not exist is NaN, and the reason
stands in the notes.

Needs NumPy alone: tools that only read and show scores start at once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval.engine import evaluate

METRICS = ("SDR", "ISR", "SIR", "SAR")

Average = Literal["median", "mean"]

_SOURCE_ORDER = ("vocals", "drums", "bass", "other")


@dataclass
class TrackScores:
    """Scores of one track.

    Attributes:
        name: The track's name; its score file is called `<name>.json`.
        frames: Source -> metric -> dB in each frame, shape (frames,). NaN where museval has none.
        usdr: Source -> whole-track SDR, dB.
        window_seconds: Length of a frame.
        hop_seconds: Distance between the starts of two frames.
        notes: Why a source has no figures, or doubtful ones, or what was done to its estimate, one
            line each.
        origin: What the figures were computed from, if the one who wrote them kept it.
    """

    name: str
    frames: dict[str, dict[str, NDArray[np.float64]]]
    usdr: dict[str, float]
    window_seconds: float = 1.0
    hop_seconds: float = 1.0
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def frame_count(self) -> int:
        """Number of frames of the longest source, skipped ones included."""
        return max((len(metrics["SDR"]) for metrics in self.frames.values()), default=0)

    @property
    def medians(self) -> dict[str, dict[str, float]]:
        """Source -> metric -> median over frames, dB; NaN if no frame has a figure."""
        return self.averages("median")

    def averages(self, over_frames: Average) -> dict[str, dict[str, float]]:
        """Average over frames, those left out that are not finite.

        museval writes infinity (SDR of a perfect estimate, SIR of a lone source) as NaN, so that
        its own aggregates leave it out too.

        Args:
            over_frames: Which average.

        Returns:
            Source -> metric -> dB; NaN if no frame has a figure.
        """
        return {
            source: {metric: _AVERAGES[over_frames](metrics[metric]) for metric in METRICS}
            for source, metrics in self.frames.items()
        }

    @property
    def skipped_frames(self) -> dict[str, int]:
        """Source -> number of frames whose SDR is not finite, so that they do not count."""
        return {
            source: int(np.count_nonzero(~np.isfinite(metrics["SDR"])))
            for source, metrics in self.frames.items()
        }


@dataclass
class Summary:
    """Scores of many tracks.

    Attributes:
        figures: Source -> metric (`METRICS` and "uSDR") -> dB.
        tracks: Number of tracks.
        frames: Number of frames of all tracks, skipped ones included.
        skipped_frames: Source -> number of frames that did not count.
        notes: Reason -> names of the tracks it holds for.
        rule: How the figures came about, in words.
    """

    figures: dict[str, dict[str, float]]
    tracks: int
    frames: int
    skipped_frames: dict[str, int]
    notes: dict[str, list[str]]
    rule: str

    def mean(self, metric: str) -> float:
        """Average a metric over the sources that have it, accompaniment left out beside its stems.

        Args:
            metric: One of `METRICS`, or "uSDR".

        Returns:
            The mean over sources, dB; NaN if no source has the metric.
        """
        return finite_mean([self.figures[source][metric] for source in self.disjoint_sources])

    @property
    def disjoint_sources(self) -> list[str]:
        """The sources, without accompaniment where the stems that it is the sum of are there."""
        overlaps = set(self.figures) > {"vocals", "accompaniment"}
        return [name for name in self.figures if not (overlaps and name == "accompaniment")]

    def as_metrics(self) -> dict[str, float]:
        """Name the figures as they are logged: `sdr/vocals`, ..., and `sdr` for the mean.

        Returns:
            Figures in dB under names that want only a split in front (`val/`). Names do not
            depend on the figures: one that does not exist is NaN, so no monitored name vanishes.
        """
        named = {}
        for metric in (*METRICS, "uSDR"):
            named[metric.lower()] = self.mean(metric)
            for source, figures in self.figures.items():
                named[f"{metric.lower()}/{source}"] = figures[metric]
        return named


def score_track(
    name: str,
    references: NDArray[np.floating],
    estimates: NDArray[np.floating],
    sample_rate: int,
    sources: Sequence[str],
    window_seconds: float = 1.0,
    hop_seconds: float = 1.0,
) -> TrackScores:
    """Score the estimates of one track.

    museval refuses a whole track when one reference or one estimate is silent throughout. Here
    that source alone goes without figures, and a note says why. A silent reference is left out of
    the evaluation. A silent estimate is replaced by its reference while the others are scored, so
    that it moves none of their figures. A source that is scored with other companions has
    slightly other figures: what leaks in from a source that is left out counts against SAR
    rather than SIR, so compare only scores over the same `sources`. A lone source has an infinite
    SIR, which counts as none.

    Args:
        name: The track's name.
        references: True sources, nominally in [-1, 1], shape (S, C, T).
        estimates: Estimates in the same order, shape (S, C, T).
        sample_rate: Samples per second.
        sources: Names of the sources, length S.
        window_seconds: Length of a frame; a shorter track is one frame.
        hop_seconds: Distance between the starts of two frames.

    Returns:
        The track's scores.

    Raises:
        ValueError: Shapes and sources do not agree.
    """
    references = np.asarray(references, dtype=np.float64)
    estimates = np.asarray(estimates, dtype=np.float64)
    if references.ndim != 3 or references.shape != estimates.shape:
        raise ValueError(
            f"{name}: references have shape {references.shape}, estimates {estimates.shape}; "
            "expected both as (sources, channels, samples): cut or resample the estimates to fit"
        )
    if len(references) != len(sources):
        raise ValueError(
            f"{name}: {len(references)} references for {len(sources)} sources "
            f"({', '.join(sources)}): expected one each"
        )

    notes: list[str] = []
    kept: list[int] = []  # sources that take part as references
    scored: list[int] = []  # those among them that get figures
    for index, source in enumerate(sources):
        if fault := _fault(references[index], sample_rate):
            notes.append(f"{source}: the reference {fault}")
            continue
        kept.append(index)
        if fault := _fault(estimates[index], sample_rate):
            notes.append(f"{source}: the estimate {fault}")
        else:
            scored.append(index)

    window, hop = int(window_seconds * sample_rate), int(hop_seconds * sample_rate)
    frame_count = max(1, (references.shape[-1] - window + hop) // hop)
    figures = np.full((len(METRICS), len(sources), frame_count), np.nan)
    if scored:
        stand_ins = estimates[kept]
        for row, index in enumerate(kept):
            if index not in scored:
                stand_ins[row] = references[index]
        found = evaluate(
            references[kept].transpose(0, 2, 1),
            stand_ins.transpose(0, 2, 1),
            window=window,
            hop=hop,
        )
        rows = [kept.index(index) for index in scored]
        figures[:, scored] = np.stack([found.sdr, found.isr, found.sir, found.sar])[:, rows]
        for source_row, doubt in found.doubts.items():
            doubted = "all sources" if source_row is None else sources[kept[source_row]]
            notes.append(f"{doubted}: {doubt}")

    return TrackScores(
        name=name,
        frames={
            source: dict(zip(METRICS, figures[:, index], strict=True))
            for index, source in enumerate(sources)
        },
        usdr=dict(zip(sources, usdr(references, estimates).tolist(), strict=True)),
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        notes=notes,
    )


def usdr(references: NDArray[np.floating], estimates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the whole-track SDR of the Music Demixing challenges.

        10 log10((sum s^2 + d) / (sum (s - e)^2 + d)),  d = 1e-7

    with sums over channels and samples: Mitsufuji et al. 2021, "Music Demixing Challenge 2021",
    section on the metric, and the challenge's starter kit. An all-zero estimate has 0 dB. Unlike
    there, a reference that is zero throughout gives NaN: its figure (far below zero, or 0 dB for
    a silent estimate) would tell the energy of the estimate alone and swamp a mean over tracks.

    Args:
        references: True sources, shape (S, C, T).
        estimates: Estimates in the same order, shape (S, C, T).

    Returns:
        SDR in dB, shape (S,); NaN for a silent reference and wherever a sample is not finite.
    """
    delta = 1e-7
    references = np.asarray(references, dtype=np.float64)
    energy = np.sum(references**2, axis=(1, 2))
    error = np.sum((references - estimates) ** 2, axis=(1, 2))
    defined = (energy > 0) & np.isfinite(energy) & np.isfinite(error)
    ratio = np.full(len(energy), np.nan)
    np.divide(energy + delta, error + delta, out=ratio, where=defined)
    decibels: NDArray[np.float64] = 10 * np.log10(ratio)
    return decibels


def merge(parts: Iterable[Iterable[TrackScores]]) -> list[TrackScores]:
    """Bring together what several processes scored.

    Args:
        parts: Scores from each. Of two with one name the last counts: a distributed sampler
            repeats tracks to give all ranks equally many.

    Returns:
        Each track once, sorted by name.
    """
    by_name = {track.name: track for part in parts for track in part}
    return [by_name[name] for name in sorted(by_name)]


def aggregate(
    tracks: Sequence[TrackScores],
    over_frames: Average = "median",
    over_tracks: Average = "median",
) -> Summary:
    """Aggregate the scores of a data set.

    SDR, ISR, SIR and SAR are averaged over frames, then over the tracks that have a figure; uSDR
    by the mean over the tracks that have one. Counts and notes cover all tracks.

    Args:
        tracks: Scores of the tracks. Of two with one name the last counts.
        over_frames: Average over a track's frames.
        over_tracks: Average over tracks.

    Returns:
        The summary, sources in the order vocals, drums, bass, other, then any others.
    """
    unique = merge([tracks])
    found = list(dict.fromkeys(source for track in unique for source in track.frames))
    known = [source for source in _SOURCE_ORDER if source in found]
    sources = known + [source for source in found if source not in known]

    averages = [track.averages(over_frames) for track in unique]
    figures: dict[str, dict[str, float]] = {}
    for source in sources:
        figures[source] = {
            metric: _AVERAGES[over_tracks](
                [track[source][metric] for track in averages if source in track]
            )
            for metric in METRICS
        }
        figures[source]["uSDR"] = finite_mean(
            [track.usdr[source] for track in unique if source in track.usdr]
        )

    notes: dict[str, list[str]] = {}
    for track in unique:
        for note in track.notes:
            notes.setdefault(note, []).append(track.name)
    windows = sorted({track.window_seconds for track in unique})
    return Summary(
        figures=figures,
        tracks=len(unique),
        frames=sum(track.frame_count for track in unique),
        skipped_frames={
            source: sum(track.skipped_frames.get(source, 0) for track in unique)
            for source in sources
        },
        notes=notes,
        rule=f"{over_tracks} over tracks of the {over_frames} over "
        f"{' or '.join(f'{window:g}' for window in windows or [1])} s frames, "
        "uSDR: mean over tracks",
    )


def finite_mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Average the values that are finite.

    Args:
        values: Figures, dB.

    Returns:
        Their mean; NaN if there is none.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _fault(signal: NDArray[np.float64], sample_rate: int) -> str | None:
    """Say why a signal of shape (C, T) cannot be scored, if it cannot."""
    finite = np.isfinite(signal).all(axis=0)
    if not finite.all():
        return f"has NaN or infinite samples, first at {np.argmin(finite) / sample_rate:.3f} s"
    # museval's rule: silent is a channel sum of zero, so that left = -right is silent too
    if not signal.sum(axis=0).any():
        return "is silent over the whole track"
    return None


def _finite_median(values: Sequence[float] | NDArray[np.float64]) -> float:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size else math.nan


_AVERAGES = {"median": _finite_median, "mean": finite_mean}
