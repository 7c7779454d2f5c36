"""Notes about audio in a data set that is not read, and about names that are nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datamodules.files.names import (
    groups_of_same,
    is_stem_file,
    is_system_name,
    key,
    match,
    same_name,
    without_suffix,
)
from datamodules.tracks.entries import (
    STEMS,
    SUBSET_FOLDERS,
    SUBSETS,
    Entry,
    audio_below,
    folders_named,
    is_audio,
)
from datamodules.tracks.findings import Finding
from datamodules.tracks.folders import TrackFolders, subset_folders
from datamodules.tracks.layouts import find_entries, locate, subsets_of

_ALIKE = "in letter case or Unicode form alone"


def find_unread(
    root: str | Path,
    stems: Sequence[str] = STEMS,
    find_files: Callable[[Entry, Sequence[str]], Mapping[str, tuple[Path, ...]]] = Entry.find,
) -> list[Finding]:
    """Notes about all audio in a data set that is not read; ``find_files`` finds what is."""
    findings = unread_in_root(root, stems)
    for subset in subsets_of(root, stems):
        entries = find_entries(root, subset, stems)
        findings += unread_in_subset(root, subset, entries, stems)
        for entry in entries:
            if not entry.is_stem_file:
                findings += unread_in_track(entry, find_files(entry, stems), stems)
    return [finding for finding in findings if finding.severity == "note"]


def unread_in_root(root: str | Path, stems: Sequence[str] = STEMS) -> list[Finding]:
    """Notes about folders and audio files of a root that no subset reads."""
    layout, root = locate(root)
    if not isinstance(layout, TrackFolders):
        return []
    folders = [found for subset in SUBSETS if (found := subset_folders(root, subset, stems))]
    used = {folder for pair in folders for folder in pair}
    if root in used:  # its folders are tracks
        return []
    parents = {root} | {folder.parent for folder in used}  # in DSD100 Sources and Mixtures
    findings = []
    for path in sorted(path for parent in parents if parent.is_dir() for path in parent.iterdir()):
        if path in used | parents or is_system_name(path.name):
            continue
        if path.is_dir():
            findings += _unread_folder(path, root)
        elif is_audio(path.name):
            findings.append(_unread_file(path))
    return findings


def _unread_folder(folder: Path, root: Path) -> list[Finding]:
    audio = audio_below(folder)
    if audio is None:
        return []
    finding = f"holds audio that is not read, such as {audio.relative_to(folder)}"
    remedy = f"rename it to one of {', '.join(SUBSETS)}, or move its tracks there, to use them"
    for names in SUBSET_FOLDERS.values():
        read = folders_named(root, names)[:1]
        if key(folder.name) in names and read and read != [folder]:
            same = same_name(folder.name, read[0].name)
            finding += f"; its name differs from {read[0].name}, which is read, {_ALIKE}" * same
            remedy = f"move its tracks to {read[0].name} to use them"
    return [Finding("note", "unread-folder", str(folder), finding, remedy)]


def unread_in_subset(
    root: str | Path, subset: str, entries: Sequence[Entry], stems: Sequence[str] = STEMS
) -> list[Finding]:
    """Notes about folders and files of a subset that are not tracks, and about names.

    Args:
        root: Folder of the data set.
        subset: The subset.
        entries: Its tracks.
        stems: Names of the data set's stems.
    """
    layout, root = locate(root)
    folders = subset_folders(root, subset, stems) if isinstance(layout, TrackFolders) else None
    if folders is None or entries[0].unaligned:
        return []
    folder, _ = folders
    known = {entry.path for entry in entries}
    validation = subset_folders(root, "valid", stems)
    findings = []
    for path in sorted(folder.iterdir()):
        if path in known or is_system_name(path.name) or (validation and path in validation):
            continue
        if path.is_dir():
            findings.append(_skipped_folder(path))
        elif is_audio(path.name):
            findings.append(_unread_file(path))
    by_folder: dict[Path, list[Path]] = {}
    if any(path.is_symlink() for path in known):
        for path in sorted(known):
            by_folder.setdefault(path.resolve(), []).append(path)
    for first, *links in by_folder.values():
        findings += [
            Finding(
                "warning",
                "same-name",
                str(link),
                f"is the same folder or file as {first.name}, by a link; both are read",
                "remove one of them, or the song may be both trained and validated on",
            )
            for link in links
        ]
    for one, *others in groups_of_same(entry.name for entry in entries):
        findings += [
            Finding(
                "warning",
                "same-name",
                str(folder / other),
                f"its name differs from {one} {_ALIKE}; both are read",
                "remove one if they are copies, else rename it",
            )
            for other in others
        ]
    return findings


def _skipped_folder(folder: Path) -> Finding:
    audio = audio_below(folder)
    if audio is None:
        return Finding(
            "note",
            "no-audio",
            str(folder),
            "no audio in it, expected stems: skipped",
            "remove it, or restore its files",
        )
    return Finding(
        "note",
        "unread-folder",
        str(folder),
        f"its audio is not read, because it is in folders below: {audio.relative_to(folder)}",
        f"move the folders of tracks to {folder.parent} to use them",
    )


def _unread_file(path: Path) -> Finding:
    if is_stem_file(path.name):
        return Finding(
            "note",
            "unread-file",
            str(path),
            "not read, because a folder of the same name is",
            "remove one of them",
        )
    return Finding(
        "note",
        "unread-file",
        str(path),
        "audio that is not read, because it is not in the folder of a track",
        "move it to <track>/<stem> in a subset to use it",
    )


def unread_in_track(
    entry: Entry, files: Mapping[str, tuple[Path, ...]], stems: Sequence[str]
) -> list[Finding]:
    """Notes about audio in a track's folder that is not read.

    Args:
        entry: The track.
        files: Stem -> files that are read.
        stems: Names of the data set's stems.
    """
    if entry.parts is not None:
        return _said_by_metadata(entry, stems)
    read = {path.name for paths in files.values() for path in paths}
    unread = sorted(name for name in entry.content or () if is_audio(name) and name not in read)
    findings = []
    for name in unread:
        if twin := next((other for other in sorted(read) if same_name(name, other)), None):
            findings.append(
                Finding(
                    "warning",
                    "same-name",
                    str(entry.path / name),
                    f"not read: its name differs from {twin}, which is read, {_ALIKE}",
                    "remove one of them",
                )
            )
    others = [name for name in unread if not any(same_name(name, other) for other in read)]
    doubled = match(map(without_suffix, others), map(without_suffix, read))
    if again := [name for name in others if without_suffix(name) in doubled]:
        findings.append(
            Finding(
                "note",
                "unread-file",
                str(entry.path),
                f"not read, because the same stem is in another format: {', '.join(again)}",
                "remove one of them",
            )
        )
        others = [name for name in others if name not in again]
    for name in sorted({*(entry.content or ())} - read - {*unread}):
        if not is_system_name(name) and (folder := entry.path / name).is_dir():
            audio = audio_below(folder)
            others += [str(audio.relative_to(entry.path))] if audio else []
    if others:
        findings.append(
            Finding(
                "note",
                "unread-file",
                str(entry.path),
                f"audio that is not read: {', '.join(others)}",
                f"to use it, list it in stems, which are {', '.join(stems)}",
            )
        )
    return findings


def _said_by_metadata(entry: Entry, stems: Sequence[str]) -> list[Finding]:
    findings = []
    if entry.unassigned:
        findings.append(
            Finding(
                "note",
                "unread-file",
                str(entry.path),
                f"instruments that are not read: {', '.join(entry.unassigned)}",
                f"to use them, list them, or other, in stems, which are {', '.join(stems)}",
            )
        )
    if entry.has_bleed:
        findings.append(
            Finding(
                "note",
                "bleed",
                str(entry.path),
                "its metadata say that files contain bleed of other instruments",
                "move the track elsewhere if targets must be clean",
            )
        )
    return findings


def same_names_in_subsets(entries: Sequence[Entry]) -> list[Finding]:
    """Warnings about tracks in different subsets that have the same name."""
    first: dict[str, Entry] = {}
    findings = []
    for entry in entries:
        other = first.setdefault(key(entry.name), entry)
        if other.subset != entry.subset:
            findings.append(
                Finding(
                    "warning",
                    "same-name",
                    str(entry.path),
                    f"has the name of {other.subset}/{other.name}, expected another song",
                    "listen to both; remove one if they are the same song",
                )
            )
    return findings
