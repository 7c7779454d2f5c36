"""Scores of tracks, computed and aggregated.

All scores are in dB. SDR, ISR, SIR and SAR are BSS Eval v4 over frames, by default of one second.
A track's score is the median over its frames, a data set's score the median over its tracks (the
rule of SiSEC 2018; means on request). uSDR is the whole-track SDR of the Music Demixing
challenges, averaged over tracks. A score that does not exist is NaN, and the notes give the reason.

Needs only NumPy, so that tools that read and show scores start at once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import counted, listed
from datamodules.tracks.layouts import STEMS
from lightning_modules.evaluation.bss_eval.engine import evaluate

METRICS = ("SDR", "ISR", "SIR", "SAR")

Average = Literal["median", "mean"]

# Power of a nearly silent reference, relative to the sum of all references and to full scale.
_NEAR_SILENCE, _LOWEST_POWER = 1e-6, 1e-8
NEAR_SILENT = (
    "the reference is nearly silent (60 dB or more below the mixture), so its scores tell nothing "
    "about separation: mute this stem of the track, or compare --without-near-silent"
)


@dataclass
class TrackScores:
    """Scores of one track.

    Attributes:
        name: The track's name; its score file is `<name>.json`.
        frames: Source -> metric -> dB in each frame, shape (frames,). NaN where museval has none.
        usdr: Source -> whole-track SDR, dB.
        window_seconds: Length of a frame.
        hop_seconds: Distance between the starts of two frames.
        notes: One line each: why a source has no or unreliable scores, or how its estimate was
            changed.
        origin: What the scores were computed from; empty if unknown.
        metrics: Metric of `lightning_modules.evaluation.metrics` -> source -> value, as requested.
        sample_rate: Rate at which it was scored, Hz; None if unknown.
        channels: Number of channels that were scored; None if unknown.
        near_silent: Sources whose reference is nearly silent: their scores mean nothing.
        constant_gains: Of the mixture as estimate, its scores at other gains; see
            `lightning_modules.evaluation.baselines`.
    """

    name: str
    frames: dict[str, dict[str, NDArray[np.float64]]]
    usdr: dict[str, float]
    window_seconds: float = 1.0
    hop_seconds: float = 1.0
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    sample_rate: int | None = None
    channels: int | None = None
    near_silent: list[str] = field(default_factory=list)
    constant_gains: dict[str, "TrackScores"] = field(default_factory=dict)

    @property
    def frame_count(self) -> int:
        """Number of frames of the longest source, skipped ones included."""
        return max((len(metrics["SDR"]) for metrics in self.frames.values()), default=0)

    @property
    def medians(self) -> dict[str, dict[str, float]]:
        """Source -> metric -> median over frames, dB; NaN if no frame has a score."""
        return self.averages("median")

    def averages(self, over_frames: Average) -> dict[str, dict[str, float]]:
        """Average over the frames with finite scores.

        museval writes infinity (SDR of a perfect estimate, SIR of a single source) as NaN, so its
        aggregates exclude it too.

        Returns:
            Source -> metric -> dB; NaN if no frame has a score.
        """
        return {
            source: {metric: _AVERAGES[over_frames](metrics[metric]) for metric in METRICS}
            for source, metrics in self.frames.items()
        }

    @property
    def skipped_frames(self) -> dict[str, int]:
        """Source -> number of frames whose SDR is not finite, which averages exclude."""
        return {
            source: int(np.count_nonzero(~np.isfinite(metrics["SDR"])))
            for source, metrics in self.frames.items()
        }


@dataclass
class Summary:
    """Scores of many tracks.

    Attributes:
        scores: Source -> metric (`METRICS` and "uSDR") -> dB.
        tracks: Number of tracks.
        frames: Number of frames of all tracks, skipped ones included.
        skipped_frames: Source -> number of frames without a score.
        notes: Note -> names of the tracks that have it.
        rule: How scores are averaged, in words.
    """

    scores: dict[str, dict[str, float]]
    tracks: int
    frames: int
    skipped_frames: dict[str, int]
    notes: dict[str, list[str]]
    rule: str

    def mean(self, metric: str) -> float:
        """Mean of a metric over the `disjoint_sources` that have it, dB; NaN if none has."""
        return finite_mean([self.scores[source][metric] for source in self.disjoint_sources])

    @property
    def disjoint_sources(self) -> list[str]:
        """The sources without sums of others, see `disjoint`."""
        return disjoint(list(self.scores))

    def as_metrics(self) -> dict[str, float]:
        """Scores under the names they are logged with: `sdr/vocals`, ..., and `sdr` for the mean.

        Names lack the split (`val/`). Missing scores are NaN, so that monitored names always exist.
        """
        named = {}
        for metric in (*METRICS, "uSDR"):
            named[metric.lower()] = self.mean(metric)
            for source, scores in self.scores.items():
                named[f"{metric.lower()}/{source}"] = scores[metric]
        return named

    @property
    def note_lines(self) -> list[str]:
        """The notes, each with the names of up to three tracks."""
        return [f"{note} ({listed(names, 3)})" for note, names in self.notes.items()]


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

    museval refuses a track with a reference or an estimate that is completely silent. Here only
    that source has no scores, and a note gives the reason. A silent reference is excluded from the
    evaluation. A silent estimate is replaced by its reference while the others are scored, so that
    it does not change their scores. Excluding a source changes the other scores a little: its
    leakage counts against SAR instead of SIR. So compare only scores over the same `sources`. A
    single source has an infinite SIR, which averages exclude.

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
        ValueError: The shapes or the number of sources do not match.
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
            f"{name}: {counted(len(references), 'reference')} for "
            f"{counted(len(sources), 'source')} ({', '.join(sources)}): expected one each"
        )

    window, hop = int(window_seconds * sample_rate), int(hop_seconds * sample_rate)
    loudest = _loudest(references.sum(0), window)
    near_silent = [
        source
        for source, reference in zip(sources, references, strict=True)
        if _is_nearly_silent(_loudest(reference, window), loudest)
    ]
    notes: list[str] = [f"{source}: {NEAR_SILENT}" for source in near_silent]
    kept: list[int] = []  # sources with a usable reference
    scored: list[int] = []  # sources that also have a usable estimate
    for index, source in enumerate(sources):
        if fault := _fault(references[index], sample_rate):
            notes.append(f"{source}: the reference {fault}")
            continue
        kept.append(index)
        if fault := _fault(estimates[index], sample_rate):
            notes.append(f"{source}: the estimate {fault}")
        else:
            scored.append(index)

    frame_count = max(1, (references.shape[-1] - window + hop) // hop)
    values = np.full((len(METRICS), len(sources), frame_count), np.nan)
    if scored:
        true, usable = references[kept], np.isin(kept, scored)
        estimated = np.where(usable[:, None, None], estimates[kept], true)
        found = evaluate(
            true.transpose(0, 2, 1), estimated.transpose(0, 2, 1), window=window, hop=hop
        )
        values[:, scored] = np.stack([found.sdr, found.isr, found.sir, found.sar])[:, usable]
        for row, doubt in found.doubts.items():
            notes.append(f"{'all sources' if row is None else sources[kept[row]]}: {doubt}")

    return TrackScores(
        name=name,
        frames={
            source: dict(zip(METRICS, values[:, index], strict=True))
            for index, source in enumerate(sources)
        },
        usdr=dict(zip(sources, usdr(references, estimates).tolist(), strict=True)),
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        notes=notes,
        sample_rate=sample_rate,
        channels=references.shape[1],
        near_silent=near_silent,
    )


def usdr(references: NDArray[np.floating], estimates: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the whole-track SDR of the Music Demixing challenges.

        10 log10((sum s^2 + d) / (sum (s - e)^2 + d)),  d = 1e-7

    with sums over channels and samples: Mitsufuji et al. 2021, "Music Demixing Challenge 2021",
    section on the metric, and the challenge's starter kit. A silent estimate has 0 dB. In contrast
    to the challenge, a silent reference gives NaN: its score would depend only on the energy of
    the estimate and dominate a mean over tracks.

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
    """Merge the scores of several processes: each track once, sorted by name.

    If several tracks have the same name, the last is used: a distributed sampler repeats tracks so
    that all ranks have the same number.
    """
    by_name = {track.name: track for part in parts for track in part}
    return [by_name[name] for name in sorted(by_name)]


def aggregate(
    tracks: Sequence[TrackScores],
    over_frames: Average = "median",
    over_tracks: Average = "median",
) -> Summary:
    """Aggregate the scores of a data set.

    SDR, ISR, SIR and SAR are averaged over frames, then over the tracks that have a score; uSDR is
    the mean over the tracks that have one. Numbers of frames and notes cover all tracks. If several
    tracks have the same name, the last is used.

    Returns:
        The summary, sources in the order vocals, drums, bass, other, then any others.
    """
    unique = merge([tracks])
    sources = ordered_sources(source for track in unique for source in track.frames)
    averages = [track.averages(over_frames) for track in unique]
    scores: dict[str, dict[str, float]] = {}
    for source in sources:
        having = [track[source] for track in averages if source in track]
        scores[source] = {
            metric: _AVERAGES[over_tracks]([track[metric] for track in having])
            for metric in METRICS
        }
        scores[source]["uSDR"] = finite_mean([t.usdr[source] for t in unique if source in t.usdr])
    notes: dict[str, list[str]] = {}
    for track in unique:
        for note in track.notes:
            notes.setdefault(note, []).append(track.name)
    windows = sorted({track.window_seconds for track in unique})
    lengths = " or ".join(f"{window:g}" for window in windows or [1])
    skipped = [track.skipped_frames for track in unique]
    return Summary(
        scores=scores,
        tracks=len(unique),
        frames=sum(track.frame_count for track in unique),
        skipped_frames={name: sum(count.get(name, 0) for count in skipped) for name in sources},
        notes=notes,
        rule=f"{over_tracks} over tracks of the {over_frames} over {lengths} s frames, "
        "uSDR: mean over tracks",
    )


def finite_mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of the finite values; NaN if there are none."""
    finite = [float(value) for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def finite_median(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Median of the finite values; NaN if there are none."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size else math.nan


def ordered_sources(names: Iterable[str]) -> list[str]:
    """Unique names of sources: vocals, drums, bass, other, then the rest as they come."""
    found = list(dict.fromkeys(names))
    known = [name for name in STEMS if name in found]
    return known + [name for name in found if name not in known]


def disjoint(sources: Sequence[str]) -> list[str]:
    """Leave out accompaniment and ``no_<stem>`` if stems in this sum are sources too."""
    if len(sources) < 3:
        return list(sources)
    sums = {"accompaniment": "vocals"} | {f"no_{name}": name for name in sources}
    return [name for name in sources if sums.get(name) not in sources]


def _fault(signal: NDArray[np.float64], sample_rate: int) -> str | None:
    """Why a signal of shape (C, T) cannot be scored; None if it can."""
    finite = np.isfinite(signal).all(axis=0)
    if not finite.all():
        return f"has NaN or infinite samples, first at {np.argmin(finite) / sample_rate:.3f} s"
    # museval's rule: the channels sum to zero, so left = -right is silent too.
    if not signal.sum(axis=0).any():
        return "is silent over the whole track"
    return None


def _is_nearly_silent(power: float, total: float) -> bool:
    """Whether a reference is inaudible but not zero: dither, or leakage of the other tracks.

    The power of its loudest frame is then 60 dB or more below that of the sum of all references:
    no system removes the others that far, so that its scores measure only what they leave behind.
    Or it is below -80 dB full scale, a few steps of 16-bit audio.
    """
    return 0 < power < max(_NEAR_SILENCE * total, _LOWEST_POWER)


def _loudest(signal: NDArray[np.float64], window: int) -> float:
    """Mean power of the loudest frame of a signal (C, T)."""
    samples = min(window, signal.shape[-1]) or 1
    frames = (signal[:, first : first + samples] for first in range(0, signal.shape[-1], samples))
    loudest: float = max((float(np.sum(frame**2)) for frame in frames), default=0.0)
    return float(loudest / (signal.shape[0] * samples))


_AVERAGES = {"median": finite_median, "mean": finite_mean}
