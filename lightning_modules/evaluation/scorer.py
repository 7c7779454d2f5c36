"""Score a data set in several processes; keep finished tracks, skip faulty ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.cache.pcm import decode
from datamodules.errors import DataError, listed
from datamodules.files.names import is_system_name, key
from datamodules.progress import Bar
from datamodules.tracks.index import Track, check_tracks
from datamodules.tracks.layouts import MIXTURE, SUBSETS, Entry
from lightning_modules.evaluation.estimate_files import (
    EstimateFiles,
    TargetNames,
    find_estimates,
    with_streams,
)
from lightning_modules.evaluation.estimates import Settings, origin, score_estimates, score_oracle
from lightning_modules.evaluation.score_files import read_scores, score_files, write_scores
from lightning_modules.evaluation.scores import TrackScores
from lightning_modules.runtime.process_pool import (
    PoolTask,
    ScoringPool,
    as_completed,
    available_cores,
)

KILLED = (
    "A scoring process was killed, perhaps because memory ran out: tracks without scores are "
    "scored again, one at a time. Give fewer --processes"
)
# Names in a message.
_NAMED = 5


class Scorer:
    """Score tracks and write their files; a faulty track does not stop the others.

    Args:
        settings: How estimates are scored.
        processes: Number of processes.
        overwrite: Replace existing scores, whatever they were computed from.
        metrics: Names in `lightning_modules.evaluation.metrics.METRICS`, computed besides.

    Attributes:
        left_out: Track -> why it could not be scored.
    """

    def __init__(
        self,
        settings: Settings,
        processes: int = 1,
        overwrite: bool = False,
        metrics: Sequence[str] = (),
    ) -> None:
        self.settings, self.processes, self.overwrite = settings, processes, overwrite
        self.metrics = tuple(metrics)
        self.left_out: dict[str, str] = {}

    def find_estimates(self, folder: Path, entries: Sequence[Entry]) -> dict[str, EstimateFiles]:
        """Find the estimates of each track; tracks without any are left out.

        Args:
            folder: Contains estimates as `lightning_modules.evaluation.estimate_files` describes.
            entries: The tracks.

        Returns:
            Name of the track -> its estimates, of at least one track.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: is not a folder; check the path of the estimates")
        subset, tracks = entries[0].subset, [entry.name for entry in entries]
        found = find_estimates(folder, subset, tracks, self.settings.names)
        for entry in entries:
            if entry.name not in found:
                places = folder / entry.subset / entry.name, folder / entry.name
                self.left_out[entry.name] = f"neither {places[0]} nor {places[1]} is a folder"
        unknown = _unknown_folders(folder, found, self.settings.names)
        if not found:
            raise DataError(
                f"{folder}: expected folders named after tracks, such as {entries[0].name!r}; "
                f"found {unknown or 'none'}; rename them, or check the path and --subset"
                + _advice(folder, subset, tracks, self.settings.names)
            )
        if unknown:
            print(f"ignored folders without a track of that name: {unknown}", file=sys.stderr)
        ignored = sorted({name for estimates in found.values() for name in estimates.ignored})
        if ignored:
            print(
                f"ignored files that are not estimates: {listed([*map(repr, ignored)], _NAMED)}",
                file=sys.stderr,
            )
        return self._decode_streams(found)

    def _decode_streams(self, found: Mapping[str, EstimateFiles]) -> dict[str, EstimateFiles]:
        """Decode estimates in .stem.mp4 files; faulty ones are left out."""
        stem_files = [each.stem_file for each in found.values() if each.stem_file]
        faults: dict[Path, DataError] = {}
        names = self.settings.names
        decoded = decode(stem_files, True, faults, stems=names.names)
        result = {}
        for track, estimates in found.items():
            if (path := estimates.stem_file) is None:
                result[track] = estimates
            elif path in faults:
                self.left_out[track] = str(faults[path])
            else:
                streams = {name: decoded[path].file(name) for name in decoded[path].infos}
                result[track] = with_streams(estimates, streams, names)
        return result

    def load(self, entries: Sequence[Entry], missing_as_silence: bool = False) -> list[Track]:
        """Read the headers of tracks and decode .stem.mp4 files; faulty tracks are left out.

        Stems without a file are faults, or silent and without scores.
        """
        faults: dict[Path, DataError] = {}
        stem_files = [entry.path for entry in entries if entry.is_stem_file]
        decoded = decode(stem_files, True, faults, stems=self.settings.stems)
        faulty = [entry for entry in entries if entry.path in faults]
        self.left_out |= {entry.name: str(faults[entry.path]) for entry in faulty}
        entries = [entry for entry in entries if entry.path not in faults]
        tracks = []
        loaded = check_tracks(
            entries, decoded, self.settings.stems, missing_as_silence, progress=True
        )
        for entry, (track, findings, _) in zip(entries, loaded, strict=True):
            if track is None:
                errors = [finding for finding in findings if finding.severity == "error"]
                self.left_out[entry.name] = str(errors[0])
            else:
                tracks.append(track)
        return tracks

    def score_estimates(
        self, tracks: Sequence[Track], estimates: Mapping[str, EstimateFiles], output: Path
    ) -> list[TrackScores]:
        """Score estimates that are files; the rest as for `run`.

        Args:
            tracks: The tracks.
            estimates: Name of the track -> its estimates.
            output: Scores are written to ``<output>/<subset>/<track>.json``.
        """
        files = _score_files(tracks, output)
        jobs = [
            Job(
                track.name,
                files[track.name],
                origin(track, self.settings, estimates[track.name]),
                partial(score_estimates, track, estimates[track.name], self.settings, self.metrics),
            )
            for track in tracks
        ]
        return self.run(jobs, "scoring")

    def score_oracle(
        self,
        tracks: Sequence[Track],
        oracle: str,
        targets: Mapping[str, Sequence[str]],
        output: Path,
    ) -> list[TrackScores]:
        """Score the estimates of an oracle; the rest as for `score_estimates`.

        Args:
            tracks: The tracks.
            oracle: Its name; ``mixture`` is the mixture as estimate of every target.
            targets: Name of the track -> targets to score.
            output: Folder of the scores.
        """
        files = _score_files(tracks, output)
        jobs = [
            Job(
                track.name,
                files[track.name],
                origin(track, self.settings, oracle=oracle, targets=wanted),
                partial(score_oracle, track, oracle, wanted, self.settings, self.metrics),
            )
            for track in tracks
            for wanted in [targets[track.name]]
        ]
        return self.run(jobs, f"scoring {oracle}")

    def run(self, jobs: Sequence[Job], description: str) -> list[TrackScores]:
        """Run jobs whose scores do not exist yet, and write their score files.

        Args:
            jobs: A job per track.
            description: Label of the progress bar.

        Returns:
            Scores of the tracks that are not left out, sorted by name.

        Raises:
            DataError: Existing scores were computed from something else.
        """
        known = {} if self.overwrite else _existing_scores(jobs)
        wanted = set(self.metrics)
        done = {name: scores for name, scores in known.items() if wanted <= scores.metrics.keys()}
        if done:
            print(f"{len(done)} of {len(jobs)} tracks have their scores", file=sys.stderr)
        jobs = [job for job in jobs if job.name not in done]
        processes = max(1, min(self.processes, len(jobs)))
        pool = ScoringPool(processes, threads=max(1, available_cores() // processes))
        try:
            tasks = {
                PoolTask(pool, partial(job.work, known=known.get(job.name))): job for job in jobs
            }
            told = False
            for task in Bar(as_completed(tasks), description, len(jobs), unit="track"):
                job = tasks[task]
                if pool.is_broken and not told:
                    Bar.write(KILLED, sys.stderr)
                    told = True
                try:
                    scores = task.result()
                    scores.origin = job.origin
                    write_scores(scores, job.file)
                except Exception as error:
                    self.left_out[job.name] = reason(error)
                    continue
                done[job.name] = scores
        except BaseException:
            pool.terminate()
            raise
        pool.shutdown()
        return [done[name] for name in sorted(done)]


@dataclass(frozen=True)
class Job:
    """One track to score.

    Attributes:
        name: Name of the track.
        file: Its score file.
        origin: What its scores are computed from.
        work: Computes the scores; ``known`` are existing ones to add metrics to, or None.
    """

    name: str
    file: Path
    origin: dict[str, Any]
    work: Callable[..., TrackScores]


def _score_files(tracks: Sequence[Track], output: Path) -> dict[str, Path]:
    folder = output / tracks[0].subset if tracks else output  # all are of one subset
    return score_files(folder, [track.name for track in tracks])


def _existing_scores(jobs: Sequence[Job]) -> dict[str, TrackScores]:
    """Read existing score files; raise DataError if they were computed from something else."""
    found = {}
    for job in jobs:
        if not job.file.exists():
            continue
        try:
            scores = read_scores(job.file)
        except ValueError as error:
            print(f"scored again: {error}", file=sys.stderr)
            continue
        if scores.origin != job.origin:
            changed = [key for key in job.origin if scores.origin.get(key) != job.origin[key]]
            what = f"with other {', '.join(changed)}" if scores.origin else "of unknown origin"
            raise DataError(
                f"{job.file}: contains scores {what}; give another folder with -o, or --overwrite "
                "to score all tracks again"
            )
        scores.name = job.name  # which may be written differently in the file's name
        found[job.name] = scores
    return found


def reason(error: Exception) -> str:
    """Why a track could not be scored."""
    if isinstance(error, BrokenProcessPool):
        return (
            "the scoring process was killed, also when it scored this track alone; perhaps memory "
            "ran out"
        )
    if isinstance(error, (OSError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _unknown_folders(folder: Path, found: Mapping[str, EstimateFiles], names: TargetNames) -> str:
    """Names of up to five folders beside the estimates that belong to no track."""
    known = {estimates.place for estimates in found.values()}
    parents = {place.parent for place in known if place.is_dir() and place != folder} or {folder}
    unknown = sorted(
        place.name
        for parent in parents
        for place in parent.iterdir()
        if place.is_dir()
        and place not in known
        and key(place.name) not in (*SUBSETS, MIXTURE)
        and not is_system_name(place.name)
        and not names.of(place.name)
    )
    return listed([*map(repr, unknown)], _NAMED)


def _advice(folder: Path, subset: str, tracks: Sequence[str], names: TargetNames) -> str:
    """A subfolder that has estimates of the tracks, such as that of Demucs' model."""
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if find_estimates(below, subset, tracks, names):
            return f"; did you mean {below}?"
    return ""
