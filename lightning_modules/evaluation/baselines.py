"""Scores of the mixture at constant gains: what can be reached without any separation.

The mixture itself as the estimate of every source is far too loud, which makes it an easy baseline.
Two gains are better ones:

- ``mixture/S``: the gain is 1 / S, with S sources, so that the estimates add up to the mixture.
- ``best gain``: the gain of each source and track that minimises the squared error,

      g = argmin sum (s - g m)^2 = sum s m / sum m^2

  with sums over all channels and samples of the source s and the mixture m. It needs the true
  source; no constant gain has a higher SDR over the whole track.

A gain changes SDR and ISR of the mixture, but neither SIR nor SAR. Only SDR is computed here: in
BSS Eval v4 it is sum s^2 / sum (s - e)^2 over a frame, for which no filters are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.scores import (
    METRICS,
    Summary,
    TrackScores,
    aggregate,
    disjoint,
    score_track,
    usdr,
)

BEST_GAIN = "best gain"
GAIN = "gain"


def score_mixture(
    name: str,
    references: NDArray[np.floating],
    mixtures: NDArray[np.floating],
    sample_rate: int,
    sources: Sequence[str],
) -> TrackScores:
    """Score the mixture as the estimate of every source, and at constant gains.

    Arguments are those of `score_track`; ``mixtures`` is the mixture for each source, (S, C, T).
    """
    scores = score_track(name, references, mixtures, sample_rate, sources)
    add_constant_gains(scores, dict(zip(sources, references, strict=True)), mixtures[0])
    return scores


def best_gain(reference: NDArray[np.floating], mixture: NDArray[np.floating]) -> float:
    """Gain of the mixture (C, T) that minimises the squared error to a reference (C, T).

    It is 0 for a silent mixture.
    """
    mixture = np.asarray(mixture, np.float64)
    power = float(np.vdot(mixture, mixture))
    return float(np.vdot(np.asarray(reference, np.float64), mixture)) / power if power else 0.0


def add_constant_gains(
    scores: TrackScores,
    references: Mapping[str, NDArray[np.floating]],
    mixture: NDArray[np.floating],
) -> None:
    """Set the ``constant_gains`` of the mixture's scores: SDR, uSDR and the gains.

    Args:
        scores: Scores of the mixture as estimate. Frames without an SDR have none at any gain.
        references: True sources, each of shape (C, T), at the rate of the scores.
        mixture: Waveform, shape (C, T).
    """
    count = len(disjoint(list(scores.frames)))
    gains = {BEST_GAIN: {name: best_gain(references[name], mixture) for name in scores.frames}}
    if count > 1:
        gains = {f"mixture/{count}": dict.fromkeys(scores.frames, 1 / count)} | gains
    scores.constant_gains = {
        name: _scaled(scores, references, mixture, each) for name, each in gains.items()
    }


def _scaled(
    scores: TrackScores,
    references: Mapping[str, NDArray[np.floating]],
    mixture: NDArray[np.floating],
    gains: Mapping[str, float],
) -> TrackScores:
    assert scores.sample_rate
    window, hop = (
        int(seconds * scores.sample_rate) for seconds in (scores.window_seconds, scores.hop_seconds)
    )
    found = constant_gain_scores(scores, {}, {}, gains)
    for source, gain in gains.items():
        true, estimate = references[source], gain * np.asarray(mixture, np.float64)
        error = true - estimate
        found.usdr[source] = float(usdr(true[None], estimate[None])[0])
        known = scores.frames[source]["SDR"]
        sdr = found.frames[source]["SDR"] = np.full(len(known), np.nan)
        for frame in np.flatnonzero(np.isfinite(known)):
            place = slice(frame * hop, frame * hop + window)
            energy, rest = (float(np.sum(each[:, place] ** 2)) for each in (true, error))
            if energy and rest and gain:
                sdr[frame] = 10 * np.log10(energy / rest)
    return found


def constant_gain_scores(
    scores: TrackScores,
    sdr: Mapping[str, Sequence[float]],
    whole: Mapping[str, float],
    gains: Mapping[str, float],
) -> TrackScores:
    """Make scores that have only an SDR, for the track of other ones.

    Args:
        scores: Scores of the mixture, which tell track, sources and frames.
        sdr: Source -> SDR of each frame, dB.
        whole: Source -> uSDR, dB.
        gains: Source -> gain, kept as the metric ``gain``.
    """
    frames = {}
    for source in gains:
        count = len(scores.frames[source]["SDR"])
        frames[source] = {metric: np.full(count, np.nan) for metric in METRICS}
        if source in sdr:
            frames[source]["SDR"] = np.array(sdr[source], float)
    return TrackScores(
        scores.name, frames, dict(whole), scores.window_seconds, scores.hop_seconds,
        metrics={GAIN: dict(gains)}, sample_rate=scores.sample_rate, channels=scores.channels,
    )  # fmt: skip


def constant_gain_summaries(mixture: Sequence[TrackScores]) -> dict[str, Summary]:
    """Aggregate the scores at constant gains of the mixture's tracks: name -> summary."""
    return {name: aggregate(tracks) for name, tracks in constant_gain_tracks(mixture).items()}


def constant_gain_tracks(mixture: Sequence[TrackScores]) -> dict[str, list[TrackScores]]:
    """Name of a gain -> scores of the tracks that have it; from the mixture's scores."""
    found: dict[str, list[TrackScores]] = {}
    for track in mixture:
        for name, scores in track.constant_gains.items():
            scores.name = track.name  # which may have been written differently in the file's name
            found.setdefault(name, []).append(scores)
    return dict(sorted(found.items(), key=lambda item: item[0] == BEST_GAIN))
