"""Checks a data set before a GPU is asked for.

``python -m datamodules.doctor ROOT`` reads every file to its end and compares all tracks by
their sound. ``--fast`` checks what `fit` checks at its start: headers, and float files for NaN.
Exit status: 0 nothing but notes, 1 warnings, 2 errors, which would spoil training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.cache.folder import Decoded
from datamodules.cache.pcm import decode, decoded_bytes, find
from datamodules.doctor.diagnosis import (
    channel_names,
    diagnose,
    duplicates,
    is_silent,
    unlike_rates,
)
from datamodules.doctor.fingerprints import find_same
from datamodules.doctor.measurements import FileMeasures, MixtureMeasures, TrackMeasures, measure
from datamodules.errors import DataError
from datamodules.parallel import for_each
from datamodules.tracks.checks import find_non_finite
from datamodules.tracks.findings import Finding, Severity
from datamodules.tracks.index import Loaded, Track, load_tracks
from datamodules.tracks.layouts import MIXTURE, STEMS, SUBSETS, Entry, find_entries, subsets_of

_SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")
_SHOWN = 10
_NAME_WIDTH = 36


@dataclass(frozen=True)
class TrackReport:
    """What was found of a track.

    Attributes:
        subset: ``train`` or ``test``.
        name: Name of the track.
        seconds: Length, seconds; none if its files cannot be read or do not agree.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        files: Stem, or ``mixture`` -> what it sounds like; empty if that was not examined.
        mixture: The mixture against the sum of the stems, if it has one of its own.
    """

    subset: str
    name: str
    seconds: float | None
    sample_rate: int | None
    channels: int | None
    files: dict[str, FileMeasures]
    mixture: MixtureMeasures | None

    def label(self, width: int) -> str:
        """Subset and name in so many characters at most; the title, at the end, stays."""
        name = f"{self.subset}/{self.name}"
        return name if len(name) <= width else f"{name[: width - 18]}...{name[-15:]}"


@dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
        root: The data set.
        stems: Names of the stems.
        tracks: Its tracks, by subset and name.
        findings: What a person should know, the gravest first.
    """

    root: str
    stems: Sequence[str]
    tracks: list[TrackReport]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 with nothing but notes, 1 with warnings, 2 with errors."""
        return max((_SEVERITIES.index(found.severity) for found in self.findings), default=0)

    @property
    def counted(self) -> str:
        """How many tracks there are, such as ``100 train and 50 test tracks``."""
        counts = Counter(track.subset for track in self.tracks)
        parts = [f"{counts[subset]} {subset}" for subset in SUBSETS if counts[subset]]
        return f"{' and '.join(parts)} tracks"

    def json(self) -> dict[str, Any]:
        """All of it in JSON's types; an infinite level (of silence) is null."""
        content: dict[str, Any] = _finite(asdict(self) | {"exit_code": self.exit_code})
        return content


def examine(
    root: str | Path,
    *,
    stems: Sequence[str] = STEMS,
    missing_as_silence: bool = False,
    fast: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Examine a data set. Each .stem.mp4 is decoded into the cache, where training finds it.

    Args:
        root: Folder of the data set, of any layout that is read.
        stems: Names of the stems that every track must have.
        missing_as_silence: A stem without a file is a note, not an error.
        fast: Check what `fit` checks at its start, and nothing else. Of a .stem.mp4 that was
            not decoded yet, that is the header.
        workers: Number of threads; by default one a core.
        progress: Show progress bars.

    Returns:
        The report; faults of tracks are findings in it.

    Raises:
        DataError: There is no data set at the root, or the cache cannot hold it.
        FFmpegMissingError: There are .stem.mp4 files, and ffmpeg is not installed.
    """
    root = Path(root).expanduser()
    subsets = subsets_of(root, stems)
    entries = [entry for subset in subsets for entry in find_entries(root, subset, stems)]
    count = workers or os.cpu_count() or 1

    faults, decoded = _stem_files(entries, fast, progress)

    def is_ready(entry: Entry) -> bool:
        return not entry.is_stem_file or entry.path in decoded

    ready = [entry for entry in entries if is_ready(entry)]
    found = iter(load_tracks(ready, decoded, stems, missing_as_silence, progress))

    def load(entry: Entry) -> Loaded:
        if is_ready(entry):
            return next(found)
        # In haste a .stem.mp4 that was not decoded yet is judged by its header alone.
        fault = faults.get(entry.path)
        return Loaded(None, [Finding.of(fault, entry.path)] if fault else [], [])

    headers = [load(entry) for entry in entries]

    def listen(loaded: Loaded) -> TrackMeasures | DataError | None:
        try:
            return measure(loaded.track) if loaded.track else None
        except DataError as fault:
            return fault

    findings = [found for loaded in headers for found in loaded.findings]
    findings += unlike_rates([loaded.track for loaded in headers if loaded.track])
    measures: list[TrackMeasures | None] = [None] * len(entries)
    if fast:
        files = [path for loaded in headers for path in loaded.float_files]
        findings += find_non_finite(files, progress)
    else:
        heard = for_each(listen, headers, "listening to tracks", progress, count)
        for number, (entry, loaded, what) in enumerate(zip(entries, headers, heard, strict=True)):
            if isinstance(what, DataError):
                findings.append(Finding.of(what, Path(str(what).partition(": ")[0])))
            elif what is not None and loaded.track is not None:
                measures[number] = what
                findings += diagnose(entry, loaded.track, what)
        known = [number for number, each in enumerate(measures) if each]
        prints = [each.fingerprint for each in measures if each]
        findings += duplicates([entries[number] for number in known], find_same(prints, progress))
    findings.sort(key=lambda found: -_SEVERITIES.index(found.severity))
    reports = [
        _track_report(entry, loaded.track, each)
        for entry, loaded, each in zip(entries, headers, measures, strict=True)
    ]
    return Report(str(root), tuple(stems), reports, findings)


def _stem_files(
    entries: Sequence[Entry], fast: bool, progress: bool
) -> tuple[dict[Path, DataError], dict[Path, Decoded]]:
    """Decode what is not decoded yet, or if it must be fast, check its headers."""
    faults: dict[Path, DataError] = {}
    paths = [entry.path for entry in entries if entry.is_stem_file]
    if not fast:
        return faults, decode(paths, progress, faults)
    decoded = {}

    def check(path: Path) -> None:
        try:
            if (known := find(path)) is not None:
                decoded[path] = known
            else:
                decoded_bytes(path)
        except DataError as fault:
            faults[path] = fault

    for_each(check, paths, "checking .stem.mp4", progress)
    return faults, decoded


def _track_report(entry: Entry, track: Track | None, measures: TrackMeasures | None) -> TrackReport:
    return TrackReport(
        entry.subset,
        entry.name,
        track.seconds if track else None,
        track.sample_rate if track else None,
        track.channels if track else None,
        measures.files if measures else {},
        measures.mixture if measures else None,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --------------------------------------------------------------------- text


def table(report: Report) -> str:
    """Write a report for people: a line a track, then the findings, then a summary.

    Args:
        report: The report.

    Returns:
        The text.
    """
    lines = _track_lines(report)
    kinds = dict.fromkeys((found.severity, found.name) for found in report.findings)
    for severity, name in kinds:
        group = [
            found for found in report.findings if (found.severity, found.name) == (severity, name)
        ]
        lines += ["", f"{severity}: {name} ({len(group)})"]
        shown = group[:_SHOWN]
        lines += [f"  {_short(report, found.where)}: {found.finding}" for found in shown]
        if len(group) > _SHOWN:
            lines.append(f"  ... and {len(group) - _SHOWN} more (--json has all)")
        lines += [f"  -> {remedy}" for remedy in dict.fromkeys(found.remedy for found in shown)]
    counts = [
        f"{count} {severity}{'s' * (count != 1)}"
        for severity in reversed(_SEVERITIES)
        if (count := sum(found.severity == severity for found in report.findings))
    ]
    minutes = sum(track.seconds or 0 for track in report.tracks) / 60
    verdict = ("fit to train on", "look into the warnings", "not fit to train on")
    return "\n".join(
        [
            *lines,
            "",
            f"{report.root}: {report.counted}, {minutes:.1f} minutes; "
            f"{', '.join(counts) or 'nothing found'}: {verdict[report.exit_code]}",
        ]
    )


def _track_lines(report: Report) -> list[str]:
    names = [*report.stems, MIXTURE]
    examined = any(track.files for track in report.tracks)
    channels = max((track.channels or 0 for track in report.tracks), default=0)
    header = f"{'':{_NAME_WIDTH}} {'length':>7}"
    if examined:
        header += "".join(f" {name[:8]:>8}" for name in names)
        header += "".join(f" {name:>7}" for name in channel_names(channels))
    lines = [header]
    if examined:
        above = f"{'':{_NAME_WIDTH + 8}} {'RMS, dBFS':>{9 * len(names) - 1}}"
        lines = [above + "  mixture minus stems, dB", header]
    for track in report.tracks:
        name = track.label(_NAME_WIDTH)
        length = "?"
        if track.seconds is not None:
            length = f"{int(track.seconds // 60)}:{track.seconds % 60:04.1f}"
        line = f"{name:{_NAME_WIDTH}} {length:>7}"
        if examined:
            line += "".join(f" {_level(track.files.get(name)):>8}" for name in names)
            errors = track.mixture.error_db if track.mixture else ()
            line += "".join(f" {_error(error):>7}" for error in errors)
        lines.append(line)
    return lines


def _level(file: FileMeasures | None) -> str:
    if file is None:
        return "-"
    return "silent" if is_silent(file) else f"{file.rms_db:.1f}"


def _error(error_db: float) -> str:
    return "exact" if error_db == -math.inf else f"{error_db:.1f}"


def _short(report: Report, where: str) -> str:
    return where.removeprefix(report.root).lstrip("/") or report.root


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine as the command line says.

    Args:
        arguments: Command line; by default the process's own.

    Returns:
        Exit status: 0, 1 or 2.
    """
    parser = argparse.ArgumentParser(prog="python -m datamodules.doctor", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return command_line.run(lambda: examine_as_told(options).exit_code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument("root", metavar="ROOT", help="data set of any layout that is read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    parser.add_argument("--fast", action="store_true", help="only what fit checks at its start")
    parser.add_argument("--stems", nargs="+", default=list(STEMS), metavar="STEM")
    parser.add_argument("--missing_as_silence", action="store_true")
    parser.add_argument(
        "--workers", type=command_line.count(), help="threads; by default one a core"
    )


def examine_as_told(options: argparse.Namespace) -> Report:
    """Examine a data set and print what was found.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        The report.

    Raises:
        DataError: There is no data set at the root, or the report cannot be written.
    """
    if options.json:
        command_line.check_file(options.json, "--json")
    report = examine(
        options.root,
        stems=options.stems,
        missing_as_silence=options.missing_as_silence,
        fast=options.fast,
        workers=options.workers,
        progress=True,
    )
    if options.json:
        content = json.dumps(report.json(), indent=2, ensure_ascii=False)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(content + "\n")
    print(table(report))
    return report
