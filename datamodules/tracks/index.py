"""Index of a data set's tracks: find them on disk, check them before training, read parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.cache.folder import Decoded
from datamodules.cache.pcm import decode
from datamodules.cache.stem_files import stream_orders
from datamodules.files import audio
from datamodules.files.audio import Audio
from datamodules.files.names import is_system_name, match, without_suffix
from datamodules.files.state import State, check_same
from datamodules.tracks.checks import find_mismatches, find_non_finite, repair_command
from datamodules.tracks.entries import FORMATS, MIXTURE, STEMS, Entry, is_audio
from datamodules.tracks.findings import Finding, raise_errors
from datamodules.tracks.headers import Header, decoded_headers, read_headers
from datamodules.tracks.instruments import OTHER
from datamodules.tracks.layouts import find_entries
from datamodules.tracks.mixing import Plan, mix_tracks, plan_mixes, planned_headers
from datamodules.tracks.unread import unread_in_subset, unread_in_track

_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")


@dataclass(frozen=True)
class Track:
    """A track and its files.

    Attributes:
        name: Name of the track, as in musdb.
        subset: ``train``, ``valid`` or ``test``.
        stems: Stem name -> its file, which is in the cache if it was decoded or resampled.
        mixture: File of the track's own mixture, if it has one.
        samples: Length of each file, samples per channel.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        missing: Names of the stems that have no file and are replaced by silence.
        unmappable: Names of the stems whose files cannot be memory-mapped, such as FLAC or 24-bit
            WAV.
        states: Stem name, or ``mixture`` -> state (size, times, inode) of its file when it was
            checked; reading a file that has changed since then is an error.
        is_loose: Whether it is one file of one stem, which belongs to no song.
        unknown: Names of the stems that may sound in the track, but are not known. If ``other`` is
            a stem, it is among them, as it may contain the missing ones; its file may exist.
    """

    name: str
    subset: str
    stems: Mapping[str, Path]
    mixture: Path | None
    samples: int
    sample_rate: int
    channels: int
    missing: tuple[str, ...] = ()
    unmappable: tuple[str, ...] = ()
    states: Mapping[str, State] = field(default_factory=dict)
    is_loose: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length, seconds."""
        return self.samples / self.sample_rate

    def read(self, stem: str, start: int = 0, samples: int | None = None) -> Audio:
        """Read a part of one stem.

        Args:
            stem: Name of the stem, or ``mixture``.
            start: First sample.
            samples: Number of samples; by default up to the end. A part that exceeds the end of
                the track is shorter.

        Returns:
            Waveform, shape (C, T).

        Raises:
            DataError: The file cannot be read, or has changed since it was checked.
        """
        if stem == MIXTURE:
            return self.read_mixture(start, samples)
        if stem in self.missing:
            rest = max(0, self.samples - start)
            length = rest if samples is None else min(samples, rest)
            return np.zeros((self.channels, length), np.float32)
        return self._read_file(stem, self.stems[stem], start, samples)

    def read_stems(self, names: Sequence[str], start: int = 0, samples: int | None = None) -> Audio:
        """Read the same part of several stems, shape (S, C, T); see `read`."""
        return np.stack([self.read(name, start, samples) for name in names])

    def read_mixture(self, start: int = 0, samples: int | None = None) -> Audio:
        """Read a part of the track's own mixture, or of the sum of its stems; see `read`."""
        if self.mixture is not None:
            return self._read_file(MIXTURE, self.mixture, start, samples)
        total: Audio = self.read_stems(tuple(self.stems), start, samples).sum(0)
        return total

    def _read_file(self, name: str, path: Path, start: int, samples: int | None) -> Audio:
        waveform = audio.read(path, start, samples)
        if name in self.states:
            check_same(path, self.states[name])
        return waveform


class CheckedTrack(NamedTuple):
    """A track whose headers were read and checked.

    Attributes:
        track: The track, or None if there are errors.
        findings: Errors and notes.
        float_files: Its files with floating-point samples, which may contain NaN.
    """

    track: Track | None
    findings: list[Finding]
    float_files: list[Path]


def index_tracks(
    root: str | Path,
    subset: str,
    *,
    stems: Sequence[str] = STEMS,
    missing_as_silence: bool = False,
    missing_as_unknown: bool = False,
    progress: bool = True,
    findings: list[Finding] | None = None,
) -> list[Track]:
    """Find and check the tracks of a subset; decode each .stem.mp4 once, into the cache.

    Args:
        root: Folder of the data set.
        subset: ``train``, ``valid`` or ``test``.
        stems: Names of the stems that every track must have.
        missing_as_silence: Replace missing stems by silence; at least one must exist.
        missing_as_unknown: Missing stems may sound in the track, see ``Track.unknown``.
        progress: Show a progress bar for each step that takes more than a second.
        findings: If given, warnings and notes are appended, such as files that are not read.

    Returns:
        The tracks, sorted by name.

    Raises:
        DataError: Files are missing or faulty; the message lists up to five.
        FFmpegMissingError: A .stem.mp4 must be decoded, and ffmpeg is not installed.
    """
    entries = find_entries(root, subset, stems)
    stem_files = [entry.path for entry in entries if entry.is_stem_file]
    decoded = decode(stem_files, progress, stems=stems)
    checked = check_tracks(
        entries,
        decoded,
        stems,
        missing_as_silence or missing_as_unknown,
        progress,
        unknown=missing_as_unknown,
    )
    raise_errors([finding for result in checked for finding in result.findings])
    if findings is not None:
        findings += unread_in_subset(root, subset, entries)
        findings += [finding for result in checked for finding in result.findings]
    float_files = [path for result in checked for path in result.float_files]
    raise_errors(find_non_finite(float_files, progress))
    return [result.track for result in checked if result.track]


def check_tracks(
    entries: Sequence[Entry],
    decoded: Mapping[Path, Decoded],
    stems: Sequence[str],
    missing_as_silence: bool = False,
    progress: bool = False,
    mixing: bool = True,
    unknown: bool = False,
) -> list[CheckedTrack]:
    """Read and check the headers of the files of each track.

    Args:
        entries: The tracks.
        decoded: Each .stem.mp4 -> its entry in the cache.
        stems: Names of the stems that every track must have.
        missing_as_silence: Replace missing stems by silence.
        progress: Show a progress bar, if it takes more than a second.
        mixing: Compute stems that are sums of files, into the cache; otherwise only the headers of
            such tracks are right.
        unknown: Missing stems may sound in the track.
    """
    stem_files = [entry.path for entry in entries if entry.is_stem_file]
    parts_by_track = [{} if entry.is_stem_file else entry.find(stems) for entry in entries]
    paths = [path for parts in parts_by_track for files in parts.values() for path in files]
    headers, faults = read_headers(list(dict.fromkeys(paths)), progress)
    headers |= decoded_headers({path: decoded[path] for path in stem_files})
    files_by_track: list[dict[str, Path]] = []
    plans: dict[int, Plan] = {}
    for number, (entry, parts) in enumerate(zip(entries, parts_by_track, strict=True)):
        files = {name: files[0] for name, files in parts.items()}
        if entry.is_stem_file:
            files = _files_of(decoded[entry.path], stems)
        elif entry.parts is not None:
            plan = plan_mixes(entry, parts, headers)
            if plan.mixes or plan.findings:
                plans[number] = plan
        files_by_track.append(files)
    if mixing and plans:
        mixed, new_headers, errors = mix_tracks(list(plans.values()), progress)
        headers |= new_headers
        for number, files, found in zip(plans, mixed, errors, strict=True):
            files_by_track[number] |= files
            plans[number].findings.extend(found)
    checked = []
    for number, (entry, files) in enumerate(zip(entries, files_by_track, strict=True)):
        known = {stem: headers[path] for stem, path in files.items() if path in headers}
        parts = parts_by_track[number]
        findings = unread_in_track(entry, parts, stems)
        if number in plans:
            findings += plans[number].findings
            if not mixing:
                known |= planned_headers(plans[number], headers)
        originals = [path for each in parts.values() for path in each]
        if faults:
            findings += [Finding.of(faults[path], path) for path in originals if path in faults]
        result = _check_track(entry, files, known, findings, stems, missing_as_silence)
        if unknown and result.track:
            result = result._replace(track=_with_unknown(result.track, entry, stems))
        if result.track:  # AAC does not decode to NaN
            result.float_files.extend(
                path for path in originals if headers[path].subtype in _FLOAT_SUBTYPES
            )
        checked.append(result)
    orders, _ = stream_orders(stem_files, stems)
    for result, entry in zip(checked, entries, strict=True):
        if entry.path in orders:
            notes = (orders[entry.path].note, decoded[entry.path].mixture_error)
            result.findings.extend(_stream_order_warning(entry, note) for note in notes if note)
    return checked


def _files_of(decoded: Decoded, stems: Sequence[str]) -> dict[str, Path]:
    """Stem -> its file, and ``mixture`` -> its file."""
    return {name: decoded.file(name) for name in (*stems, MIXTURE) if name in decoded.infos}


def _stream_order_warning(entry: Entry, fault: str) -> Finding:
    return Finding(
        "warning",
        "stream-order",
        str(entry.path),
        fault,
        "listen to the stems; name the streams if they are others (docs/data.md says how)",
    )


def _check_track(
    entry: Entry,
    files: dict[str, Path],
    headers: Mapping[str, Header],
    findings: list[Finding],
    stems: Sequence[str],
    missing_as_silence: bool,
) -> CheckedTrack:
    missing = tuple(stem for stem in stems if stem not in files)
    if entry.complete or entry.is_loose:
        pass  # nothing is missing
    elif missing_as_silence and len(missing) < len(stems):
        findings += [_silent_stem_note(entry, stem) for stem in missing]
    elif missing:
        findings.append(_missing_stems_error(entry, missing, stems))
    different = len({header[:3] for header in headers.values()}) > 1
    if different and not any(finding.severity == "error" for finding in findings):
        for name, unit in (("samples", "samples"), ("sample_rate", "Hz"), ("channels", "channels")):
            values = {stem: getattr(header, name) for stem, header in headers.items()}
            findings += find_mismatches(files, values, unit)
    if any(finding.severity == "error" for finding in findings):
        return CheckedTrack(None, findings, [])
    first = next(iter(headers.values()))
    track = Track(
        entry.name,
        entry.subset,
        {stem: path for stem, path in files.items() if stem != MIXTURE},
        files.get(MIXTURE),
        first.samples,
        first.sample_rate,
        first.channels,
        missing,
        tuple(stem for stem in stems if stem in headers and not headers[stem].mappable),
        {stem: header.state for stem, header in headers.items()},
        entry.is_loose,
    )
    return CheckedTrack(track, findings, [])


def _with_unknown(track: Track, entry: Entry, stems: Sequence[str]) -> Track:
    if not track.missing or entry.complete or track.is_loose:
        return track
    return replace(
        track, unknown=tuple(stem for stem in stems if stem in track.missing or stem == OTHER)
    )


def _missing_stems_error(entry: Entry, missing: Sequence[str], stems: Sequence[str]) -> Finding:
    expected = ", ".join(f"{stem}{FORMATS[0]}" for stem in missing)
    finding = f"no {expected} (or {', '.join(FORMATS[1:])})"
    remedy = (
        f"every track needs {', '.join(stems)}; restore the file, remove the track, set "
        "missing_as_silence or missing_as_unknown, or set stems to those of the data set"
    )
    if entry.is_stem_file:
        finding = f"no stream for {', '.join(missing)}"
    elif entry.parts is not None:
        finding = f"no file for {', '.join(missing)} (found: {', '.join(entry.parts) or 'none'})"
    elif present := sorted(name for name in os.listdir(entry.path) if not is_system_name(name)):
        finding += f" (found: {', '.join(present[:8])})"
        if len(match(missing, map(without_suffix, filter(is_audio, present)))) == len(missing):
            remedy = f"{repair_command()}, or write the files in one of these formats"
    return Finding(
        "error",
        "missing-stem",
        str(entry.path),
        finding,
        remedy,
    )


def _silent_stem_note(entry: Entry, stem: str) -> Finding:
    return Finding(
        "note",
        "missing-stem",
        str(entry.path),
        f"no file for the stem {stem}, which is silent or, with missing_as_unknown, left out",
        "add the file if the song contains this stem",
    )
