"""Stems that are the sum of several files, or of files that must be padded: one file in the cache.

The files of a track must have one sample rate, and one number of channels unless they are mono.
Shorter files are padded with silence at their end to the length of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.cache.mixes import Mix, sum_of
from datamodules.cache.pcm import mix
from datamodules.errors import DataError
from datamodules.tracks.checks import find_mismatches
from datamodules.tracks.entries import Entry
from datamodules.tracks.findings import Finding
from datamodules.tracks.headers import Header, decoded_headers

# A larger difference of lengths may be a mistake.
_SUSPICIOUS_SECONDS = 1.0


class Plan(NamedTuple):
    """Where the audio of a track's stems comes from.

    Attributes:
        files: Stem, or ``mixture`` -> the file that is read as it is.
        mixes: Stem, or ``mixture`` -> the sum of files that is computed.
        findings: Errors and warnings.
    """

    files: dict[str, Path]
    mixes: dict[str, Mix]
    findings: list[Finding]


def plan_mixes(
    entry: Entry, parts: Mapping[str, tuple[Path, ...]], headers: Mapping[Path, Header]
) -> Plan:
    """Find the sums that a track needs.

    Args:
        entry: The track.
        parts: Stem, or ``mixture`` -> its files.
        headers: File -> header; files without one are left out.
    """
    single = {name: files[0] for name, files in parts.items() if len(files) == 1}
    present = [headers[path] for path in single.values() if path in headers]
    if len(single) == len(parts) and len({header[:3] for header in present}) < 2:  # mostly
        return Plan(single, {}, [])
    known = {path: headers[path] for files in parts.values() for path in files if path in headers}
    names = {str(path): path for path in known}
    rates = {name: known[path].sample_rate for name, path in names.items()}
    findings = find_mismatches(names, rates, "Hz")
    channels = max(header.channels for header in known.values())
    odd = {
        name: count
        for name, path in names.items()
        if (count := known[path].channels) not in (1, channels)
    }
    if odd:
        widest = {name: channels for name in names if known[names[name]].channels == channels}
        findings += find_mismatches(names, {**widest, **odd}, "channels")
    samples = max(header.samples for header in known.values())
    mixes = {}
    for name, files in parts.items():
        readable = tuple(path for path in files if path in known)
        first = known[readable[0]] if readable else None
        if first and (len(files) > 1 or (first.samples, first.channels) != (samples, channels)):
            mixes[name] = sum_of(readable, samples, channels)
    if not entry.unaligned:
        findings += _short(known, samples)
    return Plan({name: single[name] for name in single.keys() - mixes.keys()}, mixes, findings)


def _short(headers: Mapping[Path, Header], samples: int) -> list[Finding]:
    missing = {
        path: (samples - header.samples) / header.sample_rate for path, header in headers.items()
    }
    return [
        Finding(
            "warning",
            "unlike-length",
            str(path),
            f"is {seconds:.1f} s shorter than the longest file of its track",
            "it is padded with silence at its end; check that it is of the same song",
        )
        for path, seconds in missing.items()
        if seconds > _SUSPICIOUS_SECONDS
    ]


def mix_tracks(
    plans: Sequence[Plan], progress: bool
) -> tuple[list[dict[str, Path]], dict[Path, Header], list[list[Finding]]]:
    """Compute the sums of tracks, once into the cache.

    Returns:
        For each track, stem -> file; the headers of the new files; and the errors of each track.
    """
    faults: dict[Path, DataError] = {}
    wanted = [
        each
        for plan in plans
        if not any(finding.severity == "error" for finding in plan.findings)
        for each in plan.mixes.values()
    ]
    entries = mix(wanted, progress, faults)
    headers = decoded_headers({entry.folder: entry for entry in entries.values()})
    files, errors = [], []
    for plan in plans:
        mixed = {name: entries[each].file() for name, each in plan.mixes.items() if each in entries}
        files.append(plan.files | mixed)
        errors.append(
            [
                Finding.of(faults[each.files[0]], each.files[0])
                for each in plan.mixes.values()
                if each not in entries and each.files[0] in faults
            ]
        )
    return files, headers, errors


def planned_headers(plan: Plan, headers: Mapping[Path, Header]) -> dict[str, Header]:
    """Headers that sums will have, without computing them: stem -> header."""
    return {
        name: headers[each.files[0]]._replace(samples=each.samples, channels=each.channels)
        for name, each in plan.mixes.items()
    }
