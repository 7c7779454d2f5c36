"""Songs that are in several data sets, found by their audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.cache.pcm import decode
from datamodules.doctor.fingerprints import Fingerprint, find_same
from datamodules.doctor.measurements import measure
from datamodules.errors import DataError
from datamodules.parallel import for_each
from datamodules.tracks.entries import Entry
from datamodules.tracks.findings import Finding
from datamodules.tracks.index import Track, check_tracks
from datamodules.tracks.layouts import find_entries


class Heard(NamedTuple):
    """A track whose audio was read.

    Attributes:
        root: Its data set.
        entry: The track.
        fingerprint: Fingerprint of its mixture.
    """

    root: str
    entry: Entry
    fingerprint: Fingerprint


def find_across(
    first: Sequence[Heard], others: Sequence[str | Path], stems: Sequence[str], progress: bool
) -> list[Finding]:
    """Find training tracks of other data sets that sound like tracks of the first one.

    Args:
        first: All tracks of the data set whose validation and test tracks are used.
        others: Further data sets, of which only the training tracks are used.
        stems: Names of the stems.
        progress: Show progress bars.

    Returns:
        An error for each that sounds like a validation or test track; a warning for each that
        sounds like a training track of another data set; and a warning for each that is faulty.
    """
    heard, findings = list(first), []
    for root in others:
        tracks, faults = _hear(root, stems, progress)
        heard += tracks
        findings += faults
    for pair in find_same([each.fingerprint for each in heard], progress):
        one, other = heard[pair.first], heard[pair.second]
        if one.root == other.root:
            continue
        leak = one.entry.subset != "train"
        findings.append(
            Finding(
                "error" if leak else "warning",
                "duplicate",
                str(other.entry.path),
                f"sounds like {one.entry.subset}/{one.entry.name} of {one.root} (correlation "
                f"{pair.correlation:.2f} of 1), expected another song",
                f"leave it out of {other.root}: scores of songs that were trained on are too high"
                if leak
                else "listen to both and remove one: it is drawn twice as often, and one of them "
                "may be used for validation",
            )
        )
    return findings


def _hear(
    root: str | Path, stems: Sequence[str], progress: bool
) -> tuple[list[Heard], list[Finding]]:
    """Read the training tracks of a data set; also returns warnings about faulty ones."""
    entries = find_entries(root, "train", stems)
    faults: dict[Path, DataError] = {}
    stem_files = [entry.path for entry in entries if entry.is_stem_file]
    decoded = decode(stem_files, progress, faults, stems=stems)
    readable = [entry for entry in entries if entry.path not in faults]
    checked = check_tracks(readable, decoded, stems, True, progress)
    findings = [_warning(root, str(fault)) for fault in faults.values()]
    pairs: list[tuple[Entry, Track]] = []
    for entry, (track, found, _) in zip(readable, checked, strict=True):
        if track:
            pairs.append((entry, track))
        else:
            findings += [_warning(root, str(each)) for each in found if each.severity == "error"]

    def hear(pair: tuple[Entry, Track]) -> Heard | DataError:
        try:
            return Heard(str(root), pair[0], measure(pair[1]).fingerprint)
        except DataError as fault:
            return fault

    results = for_each(hear, pairs, "reading other tracks", progress)
    findings += [_warning(root, str(each)) for each in results if isinstance(each, DataError)]
    return [each for each in results if isinstance(each, Heard)], findings


def _warning(root: str | Path, fault: str) -> Finding:
    remedy = "it was not compared; check this data set on its own"
    return Finding("warning", "unreadable", str(root), fault, remedy)
