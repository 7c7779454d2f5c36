"""Examine a data set: headers, audio and duplicates, collected in a report."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.cache.folder import Decoded
from datamodules.cache.pcm import decode, find_decoded
from datamodules.cache.stem_files import decoded_stem_file_size, stream_order
from datamodules.doctor.across_roots import Heard, find_across
from datamodules.doctor.diagnosis import diagnose, different_rates, duplicates
from datamodules.doctor.fingerprints import find_same
from datamodules.doctor.measurements import FileMeasures, MixtureMeasures, TrackMeasures, measure
from datamodules.errors import DataError
from datamodules.parallel import for_each
from datamodules.tracks.checks import find_non_finite
from datamodules.tracks.findings import Finding, Severity
from datamodules.tracks.index import CheckedTrack, check_tracks
from datamodules.tracks.layouts import STEMS, SUBSETS, Entry, find_entries, subsets_of
from datamodules.tracks.unread import same_names_in_subsets, unread_in_root, unread_in_subset

SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")


@dataclass(frozen=True)
class TrackReport:
    """Measurements of a track.

    Attributes:
        subset: ``train``, ``valid`` or ``test``.
        name: Name of the track.
        seconds: Length, seconds; None if its files cannot be read or differ.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        files: Stem, or ``mixture`` -> measurements; empty if the audio was not read.
        mixture: The mixture compared with the sum of the stems, if it has a file of its own.
    """

    subset: str
    name: str
    seconds: float | None
    sample_rate: int | None
    channels: int | None
    files: dict[str, FileMeasures]
    mixture: MixtureMeasures | None

    def label(self, width: int) -> str:
        """Subset and name, shortened to a width in the middle: titles are at the end."""
        name = f"{self.subset}/{self.name}"
        return name if len(name) <= width else f"{name[: width - 18]}...{name[-15:]}"


@dataclass(frozen=True)
class Report:
    """Measurements and findings of a data set.

    Attributes:
        root: The data set.
        stems: Names of the stems.
        tracks: Its tracks, by subset and name.
        findings: Problems and peculiarities, the most severe first.
    """

    root: str
    stems: Sequence[str]
    tracks: list[TrackReport]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 for notes or nothing, 1 for warnings, 2 for errors."""
        return max((SEVERITIES.index(found.severity) for found in self.findings), default=0)

    @property
    def counted(self) -> str:
        """Number of tracks, such as ``90 train, 10 valid and 50 test tracks``."""
        counts = Counter(track.subset for track in self.tracks)
        parts = [f"{counts[subset]} {subset}" for subset in SUBSETS if counts[subset]]
        return f"{', '.join([*parts[:-2], ' and '.join(parts[-2:])])} track" + (
            "" if parts and parts[-1].startswith("1 ") else "s"
        )

    def json(self) -> dict[str, Any]:
        """The report in JSON's types; an infinite level (silence) is null."""
        content: dict[str, Any] = _finite(asdict(self) | {"exit_code": self.exit_code})
        return content


def examine(
    root: str | Path,
    *,
    stems: Sequence[str] = STEMS,
    missing_as_silence: bool = False,
    fast: bool = False,
    others: Sequence[str | Path] = (),
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Examine a data set; each .stem.mp4 is decoded into the cache that training reads.

    Args:
        root: Folder of the data set, in any supported layout.
        stems: Names of the stems that every track must have.
        missing_as_silence: Report a missing stem as a note, not as an error.
        fast: Make only the checks of `fit` at its start; of a .stem.mp4 that is not in the cache,
            check only the header.
        others: Further data sets, whose training tracks are compared with all tracks of this one;
            not if ``fast``.
        workers: Number of threads; by default one per core.
        progress: Show progress bars.

    Returns:
        The report; faults of tracks are findings in it.

    Raises:
        DataError: There is no data set at the root, or the cache cannot hold it.
        FFmpegMissingError: There are .stem.mp4 files, and ffmpeg is not installed.
    """
    subsets = subsets_of(root, stems)
    by_subset = {subset: find_entries(root, subset, stems) for subset in subsets}
    entries = [entry for found in by_subset.values() for entry in found]
    tracks = _load(entries, stems, missing_as_silence, fast, progress)
    findings = unread_in_root(root, stems)
    for subset, found in by_subset.items():
        findings += unread_in_subset(root, subset, found, stems)
    findings += [finding for loaded in tracks for finding in loaded.findings]
    findings += different_rates([loaded.track for loaded in tracks if loaded.track])
    measures: list[TrackMeasures | None] = [None] * len(entries)
    if fast:
        files = [path for loaded in tracks for path in loaded.float_files]
        findings += find_non_finite(files, progress)
    else:
        count = workers or os.cpu_count() or 1
        measures, faults = _measure(entries, tracks, count, progress)
        findings += faults
        heard = [
            Heard(str(root), entry, each.fingerprint)
            for entry, each in zip(entries, measures, strict=True)
            if each
        ]
        findings += find_across(heard, others, stems, progress) if others else []
    leaks = {finding.where for finding in findings if finding.name == "duplicate"}
    findings += [
        finding for finding in same_names_in_subsets(entries) if finding.where not in leaks
    ]
    findings.sort(key=lambda found: -SEVERITIES.index(found.severity))
    reports = []
    for entry, loaded, each in zip(entries, tracks, measures, strict=True):
        track = loaded.track
        reports.append(
            TrackReport(
                entry.subset,
                entry.name,
                track.seconds if track else None,
                track.sample_rate if track else None,
                track.channels if track else None,
                each.files if each else {},
                each.mixture if each else None,
            )
        )
    return Report(str(root), tuple(stems), reports, findings)


def _load(
    entries: Sequence[Entry],
    stems: Sequence[str],
    missing_as_silence: bool,
    fast: bool,
    progress: bool,
) -> list[CheckedTrack]:
    """Load the headers of all tracks; decode .stem.mp4 files first, or check them if ``fast``."""
    stem_files = [entry.path for entry in entries if entry.is_stem_file]
    faults: dict[Path, DataError] = {}
    decoded: dict[Path, Decoded] = {}

    def find_or_check_header(path: Path) -> None:
        try:
            if (known := find_decoded(path, stems)) is not None:
                decoded[path] = known
            else:
                decoded_stem_file_size(path, stream_order(path, stems))
        except DataError as fault:
            faults[path] = fault

    if fast:
        for_each(find_or_check_header, stem_files, "checking .stem.mp4", progress)
    else:
        decoded = decode(stem_files, progress, faults, stems=stems)
    not_decoded = set(stem_files) - decoded.keys()
    readable = [entry for entry in entries if entry.path not in not_decoded]
    loaded = iter(
        check_tracks(readable, decoded, stems, missing_as_silence, progress, mixing=not fast)
    )
    without_track = {
        path: CheckedTrack(None, [Finding.of(faults[path], path)] if path in faults else [], [])
        for path in not_decoded
    }
    return [without_track.get(entry.path) or next(loaded) for entry in entries]


def _measure(
    entries: Sequence[Entry], tracks: Sequence[CheckedTrack], workers: int, progress: bool
) -> tuple[list[TrackMeasures | None], list[Finding]]:
    """Measure all tracks that could be loaded; also returns the findings about their audio."""

    def measure_or_fault(loaded: CheckedTrack) -> TrackMeasures | DataError | None:
        try:
            return measure(loaded.track) if loaded.track else None
        except DataError as fault:
            return fault

    results = for_each(measure_or_fault, tracks, "reading tracks", progress, workers)
    findings: list[Finding] = []
    for entry, loaded, result in zip(entries, tracks, results, strict=True):
        if isinstance(result, DataError):
            findings.append(Finding.of(result, Path(str(result).partition(": ")[0])))
        elif result is not None and loaded.track is not None:
            findings += diagnose(entry, loaded.track, result)
    measured = [None if isinstance(result, DataError) else result for result in results]
    compared = [entry for entry, each in zip(entries, measured, strict=True) if each]
    pairs = find_same([each.fingerprint for each in measured if each], progress)
    return measured, [*findings, *duplicates(compared, pairs)]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
