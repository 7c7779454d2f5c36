"""Estimates of any system against the references of a data set, scored by museval's rules.

The rules are those of `museval.eval_mus_track`. Only targets that have an estimate are scored, all
together, at least two of them. An estimate of another length than its reference is cut, or padded
with zeros, at its end. Where there are both vocals and accompaniment, these are scored once more
as a pair, and it is the pair's figures that vocals get.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.audio import Audio
from datamodules.files.state import state
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import FORMATS, MIXTURE, STEMS, files_in
from lightning_modules.evaluation.scores import TrackScores, score_track

VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"


@dataclass(frozen=True)
class Settings:
    """How estimates are scored, the same for all tracks of a data set.

    Attributes:
        stems: Names of the stems that every track has.
        accompaniment: Score accompaniment, the sum of all stems but the vocals. None: where it
            has an estimate, as museval does. True: also where it has none, with the sum of the
            other estimates. False: never.
        window_seconds: Length of a frame.
        hop_seconds: Distance between the starts of two frames.
    """

    stems: tuple[str, ...] = STEMS
    accompaniment: bool | None = None
    window_seconds: float = 1.0
    hop_seconds: float = 1.0

    @property
    def targets(self) -> tuple[str, ...]:
        """Names that an estimate may have, in musdb's order."""
        if self.accompaniment is False:
            return tuple(stem for stem in self.stems if stem != ACCOMPANIMENT)
        is_sum = VOCALS in self.stems and ACCOMPANIMENT not in self.stems and len(self.stems) > 1
        return (*self.stems, ACCOMPANIMENT) if is_sum else self.stems


# ------------------------------------------------------------------- scoring


def score_estimates(track: Track, folder: Path, settings: Settings) -> TrackScores:
    """Score the estimates of one track.

    Args:
        track: The track.
        folder: Folder of the estimates, files named after their targets.
        settings: How they are scored.

    Returns:
        The scores. Notes name stems without an estimate, and estimates that were cut or padded.

    Raises:
        DataError: A file is faulty, an estimate has another rate or number of channels than its
            reference, or fewer than two targets have an estimate.
    """
    files = files_in(folder, settings.targets)
    estimates = {target: _read_estimate(path, track) for target, path in files.items()}
    notes = [_fit(target, estimates, track) for target in estimates]
    if settings.accompaniment:
        _add_accompaniment(estimates, settings)
    notes += [f"{stem}: no estimate" for stem in settings.stems if stem not in estimates]
    if len(estimates) < 2:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"{folder}: estimates of at least two of {', '.join(settings.targets)} were expected "
            f"in {', '.join(FORMATS)} files, as BSS Eval tells one source from another (found: "
            f"{found}); beside vocals alone write accompaniment, the mixture minus the vocals"
        )
    scores = _score(track, estimates, settings)
    scores.notes = [note for note in notes if note] + scores.notes
    return scores


def score_oracle(
    track: Track, oracle: str, targets: Iterable[str], settings: Settings
) -> TrackScores:
    """Score the estimates that an oracle makes of one track.

    Args:
        track: The track.
        oracle: One of `lightning_modules.evaluation.oracles.ORACLES`; ``mixture`` takes the
            mixture as estimate of every target.
        targets: The targets that are scored.
        settings: How they are scored.

    Returns:
        The scores. Their first note says that they are an oracle's, but for the mixture's.

    Raises:
        DataError: A file is faulty.
    """
    mixture = _read(track, MIXTURE)
    if oracle == MIXTURE:
        estimates = dict.fromkeys(settings.targets, mixture)
    else:
        # torch takes seconds to import, and files are scored without it.
        import torch

        from lightning_modules.evaluation.oracles import ORACLES

        sources = torch.from_numpy(np.stack([_read(track, stem) for stem in settings.stems]))
        with torch.inference_mode():
            made = ORACLES[oracle](torch.from_numpy(mixture), sources).numpy()
        estimates = dict(zip(settings.stems, made, strict=True))
        _add_accompaniment(estimates, settings)
    scores = _score(track, {target: estimates[target] for target in targets}, settings)
    if oracle != MIXTURE:
        # In the file, so that every table made of it says so.
        scores.notes.insert(0, f"oracle {oracle}: the estimates are made with the true sources")
    return scores


def origin(
    track: Track,
    settings: Settings,
    folder: Path | None = None,
    oracle: str | None = None,
    targets: Iterable[str] = (),
) -> dict[str, Any]:
    """Tell what a track's scores are computed from, as its score file keeps it.

    Args:
        track: The track.
        settings: How it is scored.
        folder: Folder of the estimates, if they are files.
        oracle: The oracle, if it makes them.
        targets: The oracle's targets.

    Returns:
        What JSON can hold: the settings, size of each reference, size and time of change of each
        estimate. Where any of it differs, so may the scores.

    Raises:
        DataError: A file has vanished.
    """
    references = {name: state(path).size for name, path in track.stems.items()}
    estimates = files_in(folder, settings.targets) if folder else {}
    return {
        **asdict(settings),
        "stems": list(settings.stems),
        "references": references,
        "estimates": {name: list(state(path)[:2]) for name, path in estimates.items()},
        "oracle": oracle,
        "targets": list(targets),
    }


def _score(track: Track, estimates: Mapping[str, Audio], settings: Settings) -> TrackScores:
    """Score targets in museval's rounds: all but accompaniment, then vocals with it."""
    targets = [target for target in settings.targets if target in estimates]
    rounds = [targets]
    if VOCALS in targets and ACCOMPANIMENT in targets:
        rounds = [[t for t in targets if t != ACCOMPANIMENT], [VOCALS, ACCOMPANIMENT]]
    scores = TrackScores(track.name, {}, {}, settings.window_seconds, settings.hop_seconds)
    for names in rounds:
        if len(names) < 2:
            continue
        found = score_track(
            track.name,
            np.stack([_reference(track, target, settings) for target in names]),
            np.stack([estimates[target] for target in names]),
            track.sample_rate,
            names,
            window_seconds=settings.window_seconds,
            hop_seconds=settings.hop_seconds,
        )
        # The pair's figures of vocals replace the others and come last, as museval writes them.
        for target in names:
            scores.frames.pop(target, None)
        scores.frames |= found.frames
        scores.usdr |= found.usdr
        scores.notes = list(dict.fromkeys(scores.notes + found.notes))
    return scores


# ------------------------------------------------------------------- reading


def _reference(track: Track, target: str, settings: Settings) -> Audio:
    if target in settings.stems:
        return _read(track, target)
    accompanying = [_read(track, stem) for stem in settings.stems if stem != VOCALS]
    total: Audio = np.sum(accompanying, axis=0)
    return total


def _read(track: Track, stem: str) -> Audio:
    path = track.mixture if stem == MIXTURE else track.stems[stem]
    waveform = track.read(stem)
    return _finite(waveform, path or Path(track.name), track.sample_rate)


def _read_estimate(path: Path, track: Track) -> Audio:
    info = audio.inspect_seekable(path)
    for found, expected, unit, remedy in (
        (info.sample_rate, track.sample_rate, "Hz", "resample the estimate"),
        (info.channels, track.channels, "channel(s)", "write as many as the track has"),
    ):
        if found != expected:
            raise DataError(f"{path}: has {found} {unit}, its track {expected} {unit}; {remedy}")
    return _finite(audio.read(path), path, info.sample_rate)


def _finite(waveform: Audio, path: Path, sample_rate: int) -> Audio:
    finite = np.isfinite(waveform).all(axis=0)
    if not finite.all():
        raise DataError(str(nan_finding(path, int(np.argmin(finite)), sample_rate)))
    return waveform


def _fit(target: str, estimates: dict[str, Audio], track: Track) -> str | None:
    """Cut or pad an estimate to the length of its track, and say so."""
    estimate = estimates[target]
    excess = estimate.shape[-1] - track.samples
    if excess == 0:
        return None
    estimates[target] = np.pad(estimate[:, : track.samples], [(0, 0), (0, max(0, -excess))])
    # In whole seconds, so that the tracks of one codec, a little off each, share a note.
    seconds = math.ceil(abs(excess) / track.sample_rate)
    how_much = "less than 1 s" if seconds == 1 else f"up to {seconds} s"
    if excess > 0:
        return f"{target}: the estimate is too long by {how_much} and was cut"
    return f"{target}: the estimate is too short by {how_much} and was padded with zeros"


def _add_accompaniment(estimates: dict[str, Audio], settings: Settings) -> None:
    """Add the sum of the other stems' estimates as accompaniment, where it has none."""
    stems = [stem for stem in settings.stems if stem != VOCALS]
    wanted = ACCOMPANIMENT in settings.targets and ACCOMPANIMENT not in estimates
    if wanted and all(stem in estimates for stem in stems):
        estimates[ACCOMPANIMENT] = np.sum([estimates[stem] for stem in stems], axis=0)
