"""Convert a data set of any supported layout to WAV in the layout of MUSDB18-HQ.

``python -m datamodules.convert ROOT OUT`` can be stopped and run again: the folder of a track gets
its final name only when all files in it are complete. Files of a track that do not match in length,
sample rate or channels are repaired, and each repair is printed; nothing in ROOT is changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.cache.pcm import decoding_errors
from datamodules.errors import DataError, counted
from datamodules.files import audio
from datamodules.files.writing import WritingError, writing, writing_error
from datamodules.locks import file_lock
from datamodules.parallel import for_each, raise_faults
from datamodules.tracks.findings import summarise
from datamodules.tracks.layouts import (
    MIXTURE,
    STEMS,
    SUBSETS,
    Entry,
    find_entries,
    path_of,
    subsets_of,
)
from datamodules.tracks.repair import (
    common_format,
    find_files,
    open_track,
    repairs,
    suspicions,
)
from datamodules.tracks.source_folders import combine
from datamodules.tracks.unread import find_unread
from datamodules.tracks.write_track import SUBTYPES, write_track
from datamodules.unfinished import remove_leftovers, sync, unfinished_folder


@dataclass
class Converted:
    """Result of converting one track.

    Attributes:
        subset: ``train``, ``valid`` or ``test``.
        name: Name of the track.
        skipped: Whether the complete converted track existed already.
        samples: Samples written, over all files and channels.
        clipped: Stem name -> number of clipped samples; stems without clipped samples are left out.
        repaired: File of the data set, or name of a stem without a file -> what was done.
        warnings: What should be checked.
    """

    subset: str
    name: str
    skipped: bool = False
    samples: int = 0
    clipped: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def convert(
    root: str | Path,
    out: str | Path,
    *,
    subtype: str = "PCM_16",
    stems: Sequence[str] = STEMS,
    missing_as_silence: bool = False,
    strict: bool = False,
    workers: int | None = None,
    progress: bool = False,
    faults: list[DataError] | None = None,
) -> list[Converted]:
    """Write a data set as ``out/{train,valid,test}/<track>/<stem>.wav``, each with a mixture.

    A track without a mixture gets the sum of its stems. Integers are rounded to the nearest value
    without dither, so that integer samples are unchanged. Files that do not match the other files
    of their track are repaired, see `datamodules.tracks.repair`.

    Args:
        root: The data set.
        out: Folder to write to; complete tracks in it are skipped.
        subtype: ``PCM_16``, ``PCM_24`` or ``FLOAT``.
        stems: Names of the stems.
        missing_as_silence: Write silence for missing stems.
        strict: A track whose files do not match is an error, as in training.
        workers: Number of threads; by default one per core, at most 8.
        progress: Show a progress bar.
        faults: If given, the errors of tracks that cannot be written are stored here; by default
            they are raised when all others are written.

    Returns:
        The result for each track that was written or skipped.

    Raises:
        DataError: Some tracks are faulty (the others are written), ffmpeg is needed and not
            installed, a file cannot be written (the rest is not tried then), or ``out`` and
            ``root`` overlap.
    """
    if subtype not in SUBTYPES:
        raise DataError(f"subtype is {subtype!r}: must be one of {', '.join(SUBTYPES)}")
    out = Path(out).expanduser()
    entries = [
        entry
        for subset in subsets_of(root, stems)
        for entry in combine(find_entries(root, subset, stems))
    ]
    _check_no_overlap(path_of(root), out, entries)
    settings = _Settings(out, subtype, tuple(stems), missing_as_silence, strict)
    done: dict[Path, Converted] = {}
    found: list[DataError] = []

    stopped: list[WritingError] = []

    def convert_one(entry: Entry) -> None:
        if stopped:
            return
        try:
            done[entry.path] = _convert_track(entry, settings)
        except WritingError as error:
            stopped.append(error)
        except DataError as fault:
            found.append(fault)

    def on_busy() -> None:
        raise DataError(
            f"{out}: another conversion is writing to this folder; wait for it to end, or stop it"
        )

    try:
        out.mkdir(parents=True, exist_ok=True)
        with file_lock(out / ".convert.lock", on_busy):
            remove_leftovers(out)
            threads = workers or min(8, os.cpu_count() or 1)
            for_each(convert_one, entries, "converting", progress, threads)
    except OSError as error:
        stopped.append(writing_error(out, out / "track", error))
    found += [
        DataError(f"{error}; run the command again after that, complete tracks are kept")
        for error in stopped[:1]
    ]
    found.sort(key=str)
    if faults is None:
        raise_faults([str(fault) for fault in found])
    else:
        faults += found
    return [done[entry.path] for entry in entries if entry.path in done]


@dataclass(frozen=True)
class _Settings:
    out: Path
    subtype: str
    stems: tuple[str, ...]
    missing_as_silence: bool
    strict: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.stems, MIXTURE)


def _convert_track(entry: Entry, settings: _Settings) -> Converted:
    """Write one track, unless it exists.

    Raises:
        DataError: The track is faulty.
        WritingError: A file of it could not be written.
        OSError: A folder could not be written.
    """
    done = Converted(entry.subset, entry.name)
    target = settings.out / entry.subset / entry.name
    if _is_complete(target, entry, settings):
        done.skipped = True
        return done
    # In OUT, because musdb treats every folder in `train` and `test` as a track.
    with unfinished_folder(settings.out) as scratch:
        with decoding_errors(settings.out, entry.path):
            sources, done.warnings = open_track(
                entry, scratch, settings.stems, settings.missing_as_silence, settings.strict
            )
        common = common_format(sources, longest=entry.parts is not None)
        folder = scratch / "track"
        folder.mkdir()
        with writing(target, folder / f"{MIXTURE}.wav"):
            done.clipped, warnings = write_track(
                sources, common, folder, settings.stems, settings.subtype
            )
            done.warnings += warnings
        sync(folder)
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # an incomplete track
            os.replace(target, scratch / "old")
        os.replace(folder, target)
    for source in sources:
        if actions := repairs(source, common):
            done.repaired[str(source.path)] = ", ".join(actions)
        if not entry.unaligned:
            done.warnings += suspicions(source, common)
    missing = set(settings.names) - {source.stem for source in sources}
    for name in () if entry.complete else missing:  # where all is known, silence is no repair
        made = "missing, written as the sum of the stems" if name == MIXTURE else "silence"
        done.repaired[f"{entry.path} ({name})"] = made
    done.samples = common.samples * common.channels * len(settings.names)
    return done


def _check_no_overlap(root: Path, out: Path, entries: Sequence[Entry]) -> None:
    """Raise a ``DataError`` if the data set and ``out`` overlap, also through symbolic links."""
    folders = {
        file.parent for entry in entries for part in (entry.parts or {}).values() for file in part
    }
    sources = {root.resolve(), *(folder.resolve() for folder in folders)}
    sources |= {entry.path.resolve().parent for entry in entries}
    targets = {out.resolve(), *((out / subset).resolve() for subset in SUBSETS)}
    for source, target in product(sources, targets):
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise DataError(
                f"{out}: overlaps the data set in {source}, which must not be changed; OUT must "
                "be a folder outside it"
            )


def _is_complete(target: Path, entry: Entry, settings: _Settings) -> bool:
    """Whether a track was converted to this subtype from the current source files."""
    if not target.is_dir():
        if os.path.lexists(target):
            raise DataError(
                f"{target}: exists and is not a folder that this program wrote; move it away, or "
                "set OUT to another folder"
            )
        return False
    foreign = sorted(set(os.listdir(target)) - {f"{name}.wav" for name in settings.names})
    if foreign:
        raise DataError(
            f"{target}: contains files that this program did not write "
            f"({', '.join(foreign[:3])}); move them away, or set OUT to another folder"
        )
    files = [target / f"{name}.wav" for name in settings.names]
    sources = [path for paths in find_files(entry, settings.stems).values() for path in paths]
    try:
        infos = {audio.inspect_seekable(path) for path in files}
        newest = max(path.stat().st_mtime_ns for path in sources)
        oldest = min(path.stat().st_mtime_ns for path in files)
    except (DataError, OSError, ValueError):
        return False
    return len(infos) == 1 and infos.pop().subtype == settings.subtype and newest <= oldest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status described by ``--help``."""
    options = vars(build_parser().parse_args(arguments))
    return command_line.run(
        lambda: _convert(options), "stopped; run the same command again for the remaining tracks"
    )


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(
        "datamodules.convert",
        description=__doc__,
        epilog="Exit status: 0; 1 if some tracks could not be written; 2 if none was, or for a "
        "mistake.",
    )
    parser.add_argument("root", metavar="ROOT", help="data set of any supported layout")
    parser.add_argument("out", metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--subtype",
        choices=list(SUBTYPES),
        default="PCM_16",
        help="encoding of the WAV files; by default PCM_16",
    )
    parser.add_argument(
        "--stems",
        nargs="+",
        default=list(STEMS),
        metavar="STEM",
        help=f"stems of the data set; by default {' '.join(STEMS)}",
    )
    parser.add_argument(
        "--missing_as_silence", action="store_true", help="write silence for missing stems"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse tracks whose files do not match instead of repairing them",
    )
    parser.add_argument(
        "--workers", type=command_line.count(), help="threads; by default one per core, at most 8"
    )
    return parser


def _convert(options: dict[str, Any]) -> int:
    command_line.check_folder(Path(options["out"]).expanduser(), "OUT")
    faults: list[DataError] = []
    results = convert(**options, progress=True, faults=faults)
    written = [track for track in results if not track.skipped]
    for track in written:
        for file, actions in track.repaired.items():
            print(f"repaired: {file}: {actions}")
        for warning in track.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    _print_clipped(written)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    files = sum(len(track.repaired) for track in written)
    tracks = sum(bool(track.repaired) for track in written)
    print(
        f"{counted(len(written), 'track')} written to {options['out']} as {options['subtype']}, "
        f"{len(results) - len(written)} existed already"
        + f"; {counted(files, 'file')} of {counted(tracks, 'track')} repaired" * bool(files)
        + f"; {counted(len(faults), 'error')}" * bool(faults)
    )
    for line in summarise(find_unread(options["root"], options["stems"], find_files)):
        print(line, file=sys.stderr)
    if not faults:
        return 0
    return 1 if results else 2


def _print_clipped(tracks: Sequence[Converted]) -> None:
    clipped = [track for track in tracks if track.clipped]
    for track in clipped:
        counts = ", ".join(f"{stem} {samples}" for stem, samples in track.clipped.items())
        print(f"clipped in {track.subset}/{track.name}: {counts}")
    if clipped:
        total = sum(sum(track.clipped.values()) for track in clipped)
        share = total / sum(track.samples for track in tracks)
        print(
            f"{total} samples ({share:.2g} of all) exceeded full scale and were clipped; "
            "use --subtype FLOAT to keep them"
        )


if __name__ == "__main__":
    sys.exit(main())
