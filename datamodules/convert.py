"""Convert a data set of any supported layout to WAV in the layout of MUSDB18-HQ.

``python -m datamodules.convert ROOT OUT`` can be stopped and run again: the folder of a track gets
its final name only when all files in it are complete. Files of a track that do not match in length,
sample rate or channels are repaired, and each repair is printed; nothing in ROOT is changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from datamodules import command_line
from datamodules.cache.pcm import decoding_errors
from datamodules.errors import DataError, counted
from datamodules.files import audio
from datamodules.files.writing import WritingError, writing, writing_error
from datamodules.locks import file_lock
from datamodules.parallel import for_each, raise_faults
from datamodules.tracks.findings import summarise
from datamodules.tracks.layouts import MIXTURE, STEMS, SUBSETS, Entry, find_entries, subsets_of
from datamodules.tracks.repair import (
    BLOCK_SAMPLES,
    Format,
    Source,
    common_format,
    find_files,
    open_track,
    repaired_blocks,
    repairs,
    suspicions,
)
from datamodules.tracks.unread import find_unread
from datamodules.unfinished import remove_leftovers, sync, unfinished_folder

# Encoding -> bytes per sample.
SUBTYPES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
# As the doctor: the error of MUSDB18's AAC is below -32 dB.
_MIXTURE_ERROR_DB = -20.0


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
    root, out = Path(root).expanduser(), Path(out).expanduser()
    entries = [
        entry for subset in subsets_of(root, stems) for entry in find_entries(root, subset, stems)
    ]
    _check_no_overlap(root, out, entries)
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
        common = common_format(sources)
        folder = scratch / "track"
        folder.mkdir()
        with writing(target, folder / f"{MIXTURE}.wav"):
            _write_track(sources, common, folder, settings, done)
        sync(folder)
        target.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # an incomplete track
            os.replace(target, scratch / "old")
        os.replace(folder, target)
    for source in sources.values():
        if actions := repairs(source, common):
            done.repaired[str(source.path)] = ", ".join(actions)
        done.warnings += suspicions(source, common)
    for name in set(settings.names) - sources.keys():
        made = "missing, written as the sum of the stems" if name == MIXTURE else "silence"
        done.repaired[f"{entry.path} ({name})"] = made
    done.samples = common.samples * common.channels * len(settings.names)
    return done


def _check_no_overlap(root: Path, out: Path, entries: Sequence[Entry]) -> None:
    """Raise a ``DataError`` if the data set and ``out`` overlap, also through symbolic links."""
    sources = {root.resolve()} | {entry.path.resolve().parent for entry in entries}
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
    sources = [entry.path] if entry.is_stem_file else find_files(entry, settings.stems).values()
    try:
        infos = {audio.inspect_seekable(path) for path in files}
        newest = max(path.stat().st_mtime_ns for path in sources)
        oldest = min(path.stat().st_mtime_ns for path in files)
    except (DataError, OSError, ValueError):
        return False
    return len(infos) == 1 and infos.pop().subtype == settings.subtype and newest <= oldest


def _write_track(
    sources: Mapping[str, Source],
    common: Format,
    folder: Path,
    settings: _Settings,
    done: Converted,
) -> None:
    """Write all files of a track block by block, and note clipped samples and a wrong mixture."""
    readers = {name: repaired_blocks(source, common) for name, source in sources.items()}
    error = energy = 0.0
    clipped = dict.fromkeys(settings.names, 0)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(
                soundfile.SoundFile(
                    folder / f"{name}.wav",
                    "w",
                    common.sample_rate,
                    common.channels,
                    settings.subtype,
                )
            )
            for name in settings.names
        }
        for _ in range(0, common.samples, BLOCK_SAMPLES):
            blocks = {name: next(reader) for name, reader in readers.items()}
            first, *others = [blocks[stem] for stem in settings.stems if stem in blocks]
            total = sum(others, start=first)
            mixture = blocks.setdefault(MIXTURE, total)
            error += float(np.square(mixture - total, dtype=np.float64).sum())
            energy += float(np.square(mixture, dtype=np.float64).sum())
            silence = np.zeros_like(total)
            for name, file in files.items():
                clipped[name] += _write_block(file, blocks.get(name, silence), settings.subtype)
    done.clipped = {name: samples for name, samples in clipped.items() if samples}
    if error > energy * 10 ** (_MIXTURE_ERROR_DB / 10):
        error_db = 10 * np.log10(error / energy) if energy else np.inf
        done.warnings.append(
            f"{sources[MIXTURE].path}: the mixture is not the sum of the stems: the difference is "
            f"{error_db:.1f} dB of the mixture; it is kept, check that it is of the same song"
        )


def _write_block(file: Any, block: audio.Audio, subtype: str) -> int:
    if subtype == "FLOAT":
        file.write(block.T)
        return 0
    # Scaled here, because libsndfile multiplies by 2^15 - 1 when writing but divides by 2^15 when
    # reading.
    full_scale = 2 ** (8 * SUBTYPES[subtype] - 1)
    steps = np.rint(block.T * np.float64(full_scale))
    clipped = int(np.count_nonzero(np.abs(steps) > full_scale))
    steps = steps.clip(-full_scale, full_scale - 1)
    if subtype == "PCM_16":
        file.write(steps.astype(np.int16))
    else:  # libsndfile writes the upper 24 of 32 bits
        samples: npt.NDArray[np.int32] = steps.astype(np.int32) << 8
        file.write(samples)
    return clipped


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
