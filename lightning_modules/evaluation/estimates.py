"""Scores of estimates from any system, following the rules of `museval.eval_mus_track`.

Only targets that have an estimate are scored, all together, at least two of them. An estimate that
is longer or shorter than its reference is cut, or padded with zeros, at its end. If there are both
vocals and accompaniment, these two are scored again as a pair, and vocals get the pair's scores.
Likewise other stems and ``no_<stem>``, the sum of all others, which museval does not know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.audio import Audio
from datamodules.files.song import open_song
from datamodules.files.state import state
from datamodules.parallel import raise_faults
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE, STEMS
from lightning_modules.evaluation.baselines import add_constant_gains
from lightning_modules.evaluation.estimate_files import (
    ACCOMPANIMENT,
    VOCALS,
    EstimateFiles,
    TargetNames,
    complement,
    files_in_folder,
)
from lightning_modules.evaluation.scores import TrackScores, score_track


@dataclass(frozen=True)
class Settings:
    """How the tracks of a data set are scored.

    Attributes:
        stems: Names of the stems that every track has.
        accompaniment: Whether accompaniment, the sum of all stems but the vocals, is scored. None:
            only if it has an estimate, as in museval. True: always; without an estimate of its own,
            the sum of the other estimates is used. False: never.
        window_seconds: Length of a frame.
        hop_seconds: Distance between the starts of two frames.
    """

    stems: tuple[str, ...] = STEMS
    accompaniment: bool | None = None
    window_seconds: float = 1.0
    hop_seconds: float = 1.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Possible names of estimates, in musdb's order."""
        if self.accompaniment is False:
            return tuple(stem for stem in self.stems if stem != ACCOMPANIMENT)
        is_sum = VOCALS in self.stems and ACCOMPANIMENT not in self.stems and len(self.stems) > 1
        return (*self.stems, ACCOMPANIMENT) if is_sum else self.stems

    @property
    def names(self) -> TargetNames:
        """Names of estimates, those of sums ``no_<stem>`` and synonyms included."""
        return TargetNames(self.targets, self.stems)


# ------------------------------------------------------------------- scoring


def score_estimates(
    track: Track,
    files: EstimateFiles | Path,
    settings: Settings,
    metrics: Sequence[str] = (),
    known: TrackScores | None = None,
) -> TrackScores:
    """Score the estimates of one track.

    Args:
        track: The track.
        files: The estimates, or their folder.
        settings: How they are scored.
        metrics: Names in `lightning_modules.evaluation.metrics.METRICS`, computed besides.
        known: BSS Eval scores of the same estimates, to add the metrics to.

    Returns:
        The scores. Notes name missing stems and estimates that were cut or padded.

    Raises:
        DataError: A file is faulty, an estimate has another sample rate or number of channels than
            its reference, or fewer than two targets have an estimate.
    """
    if isinstance(files, Path):
        files = files_in_folder(files, track.name, settings.names)
    estimates = _read_estimates(files.files, track)
    notes = [note for target in estimates if (note := _match_length(target, estimates, track))]
    if settings.accompaniment:
        _add_accompaniment(estimates, settings)
    notes += [f"{stem}: no estimate" for stem in settings.stems if stem not in estimates]
    if len(estimates) < 2:
        present = sorted([*(path.name for path in files.files.values()), *files.ignored])
        raise DataError(
            f"{files.place}: expected estimates of at least two of {', '.join(settings.targets)} "
            "as audio files, because BSS Eval compares sources (found: "
            f"{', '.join(present[:8]) or 'nothing'}); besides one stem, write the sum of the "
            "others, such as no_vocals or accompaniment"
        )
    return _score(track, estimates, settings, metrics, known, notes)


def score_oracle(
    track: Track,
    oracle: str,
    targets: Iterable[str],
    settings: Settings,
    metrics: Sequence[str] = (),
    known: TrackScores | None = None,
) -> TrackScores:
    """Score an oracle's estimates of targets; other arguments are those of `score_estimates`.

    The oracle is a key of `lightning_modules.evaluation.oracles.ORACLES`; ``mixture`` is the
    mixture as estimate of every target.

    Returns:
        The scores. Unless the oracle is the mixture, the first note names it.
    """
    mixture = _read(track, MIXTURE)
    if oracle == MIXTURE:
        estimates = dict.fromkeys(targets, mixture)
    else:
        # torch takes seconds to import, and scoring files does not need it.
        import torch

        from lightning_modules.evaluation.oracles import ORACLES

        sources = torch.from_numpy(np.stack([_read(track, stem) for stem in settings.stems]))
        with torch.inference_mode():
            separated = ORACLES[oracle](torch.from_numpy(mixture), sources).numpy()
        estimates = dict(zip(settings.stems, separated, strict=True))
        _add_accompaniment(estimates, settings)
        estimates = {target: estimates[target] for target in targets}
    # In the file, so that every table made from it shows the note.
    note = f"oracle {oracle}: the estimates are made with the true sources"
    scores = _score(track, estimates, settings, metrics, known, [note] * (oracle != MIXTURE))
    if oracle == MIXTURE and known is None:
        references = {target: _reference(track, target, settings) for target in scores.frames}
        add_constant_gains(scores, references, mixture)
    return scores


def origin(
    track: Track,
    settings: Settings,
    files: EstimateFiles | Path | None = None,
    oracle: str | None = None,
    targets: Iterable[str] = (),
) -> dict[str, Any]:
    """Describe what a track's scores are computed from, for its score file.

    Estimates are either files (or their folder), or made by an oracle for its targets.

    Returns:
        JSON-compatible: the settings, size of each reference, size and modification time of each
        estimate. If this description is the same, the scores are the same.
    """
    references = {name: state(path).size for name, path in track.stems.items()}
    if isinstance(files, Path):
        files = files_in_folder(files, track.name, settings.names)
    estimates = files.originals if files else {}
    return {
        **asdict(settings),
        "stems": list(settings.stems),
        "references": references,
        "estimates": {name: list(state(path)[:2]) for name, path in estimates.items()},
        "oracle": oracle,
        "targets": list(targets),
    }


def _score(
    track: Track,
    estimates: Mapping[str, Audio],
    settings: Settings,
    metrics: Sequence[str],
    known: TrackScores | None,
    notes: Sequence[str],
) -> TrackScores:
    """Add metrics to the known scores, or to new ones with notes."""
    scores = known
    if scores is None:
        scores = _bss_eval_scores(track, estimates, settings)
        scores.notes = [*notes, *scores.notes]
    if metrics:
        from lightning_modules.evaluation.metrics import measure

        for target in scores.frames:
            reference = _reference(track, target, settings)
            found = measure(metrics, reference, estimates[target], track.sample_rate)
            for name, value in found.items():
                scores.metrics.setdefault(name, {})[target] = value
    return scores


def _bss_eval_scores(
    track: Track, estimates: Mapping[str, Audio], settings: Settings
) -> TrackScores:
    """Score targets in museval's rounds: all but sums of others, then each stem with its sum."""
    targets = [target for target in settings.names.targets if target in estimates]
    pairs = [
        [stem, target]
        for target in targets
        if (stem := complement(target, settings.stems)) and stem in targets
    ]
    sums = [target for _, target in pairs]
    rounds = [[target for target in targets if target not in sums], *pairs]
    lengths = settings.window_seconds, settings.hop_seconds
    scores = TrackScores(
        track.name, {}, {}, *lengths, sample_rate=track.sample_rate, channels=track.channels
    )
    for names in rounds:
        if len(names) < 2:
            continue
        references = np.stack([_reference(track, target, settings) for target in names])
        estimated = np.stack([estimates[target] for target in names])
        found = score_track(track.name, references, estimated, track.sample_rate, names, *lengths)
        # The pair's scores of vocals replace the others and come last, as museval writes them.
        for target in names:
            scores.frames.pop(target, None)
        scores.frames |= found.frames
        scores.usdr |= found.usdr
        scores.notes = list(dict.fromkeys(scores.notes + found.notes))
        scores.near_silent = list(dict.fromkeys(scores.near_silent + found.near_silent))
    return scores


# ------------------------------------------------------------------- reading


def _reference(track: Track, target: str, settings: Settings) -> Audio:
    if target in settings.stems:
        return _read(track, target)
    left_out = complement(target, settings.stems)
    others = [_read(track, stem) for stem in settings.stems if stem != left_out]
    total: Audio = np.sum(others, axis=0)
    return total


def _read(track: Track, stem: str) -> Audio:
    path = track.mixture if stem == MIXTURE else track.stems.get(stem)
    return _finite(track.read(stem), path or Path(track.name), track.sample_rate)


def _read_estimates(files: Mapping[str, Path], track: Track) -> dict[str, Audio]:
    """Read estimates; raise one ``DataError`` for all that are faulty."""
    estimates, faults = {}, []
    for target, path in files.items():
        try:
            estimates[target] = _read_estimate(path, track)
        except DataError as fault:
            faults.append(str(fault))
    raise_faults(faults)
    return estimates


def _read_estimate(path: Path, track: Track) -> Audio:
    song = None
    try:
        info = audio.inspect_seekable(path)
    except audio.UnknownFormatError:
        song = open_song(path)
        info = song.info
    for found, expected, unit, remedy in (
        (info.sample_rate, track.sample_rate, "Hz", "resample the estimate"),
        (info.channels, track.channels, "channel(s)", "write the same number"),
    ):
        if found != expected:
            raise DataError(f"{path}: has {found} {unit}, its track {expected} {unit}; {remedy}")
    waveform = audio.read(path) if song is None else np.concatenate(list(song.blocks), -1)
    if song and (shortfall := song.shortfall()):
        raise DataError(shortfall)
    return _finite(waveform, path, info.sample_rate)


def _finite(waveform: Audio, path: Path, sample_rate: int) -> Audio:
    finite = np.isfinite(waveform).all(axis=0)
    if not finite.all():
        raise DataError(str(nan_finding(path, int(np.argmin(finite)), sample_rate)))
    return waveform


def _match_length(target: str, estimates: dict[str, Audio], track: Track) -> str | None:
    """Cut or pad an estimate to the length of its track; return a note if it was changed."""
    estimate = estimates[target]
    excess = estimate.shape[-1] - track.samples
    if excess == 0:
        return None
    estimates[target] = np.pad(estimate[:, : track.samples], [(0, 0), (0, max(0, -excess))])
    # In whole seconds, so that tracks with the small offsets of one codec share a note.
    seconds = math.ceil(abs(excess) / track.sample_rate)
    how_much = "less than 1 s" if seconds == 1 else f"up to {seconds} s"
    if excess > 0:
        return f"{target}: the estimate is too long by {how_much} and was cut"
    return f"{target}: the estimate is too short by {how_much} and was padded with zeros"


def _add_accompaniment(estimates: dict[str, Audio], settings: Settings) -> None:
    """Add the sum of the other stems' estimates as accompaniment if it has no estimate."""
    stems = [stem for stem in settings.stems if stem != VOCALS]
    wanted = ACCOMPANIMENT in settings.targets and ACCOMPANIMENT not in estimates
    if wanted and all(stem in estimates for stem in stems):
        estimates[ACCOMPANIMENT] = np.sum([estimates[stem] for stem in stems], axis=0)
