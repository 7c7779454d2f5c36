"""Convert a data set of any supported layout to WAV in the layout of MUSDB18-HQ.

``python -m datamodules.convert ROOT OUT`` can be stopped and run again: the folder of a track gets
its final name only when all files in it are complete. Sample rates and channels are kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from datamodules import command_line
from datamodules.cache.pcm import find_decoded
from datamodules.cache.stem_files import decode_stem_file, decoded_stem_file_size, stream_order
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.locks import file_lock
from datamodules.parallel import for_each
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.findings import raise_errors
from datamodules.tracks.index import Track, check_tracks
from datamodules.tracks.layouts import MIXTURE, STEMS, Entry, find_entries, subsets_of

# Encoding -> bytes per sample.
SUBTYPES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
_BLOCK_SAMPLES = 2**16
# Prefix of temporary folders. They are created in OUT, because musdb treats every folder in `train`
# and `test` as a track.
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Converted:
    """Result of converting one track.

    Attributes:
        subset: ``train`` or ``test``.
        name: Name of the track.
        skipped: Whether the complete converted track existed already.
        samples: Samples written, over all files and channels.
        clipped: Stem name -> number of clipped samples; stems without clipped samples are left out.
    """

    subset: str
    name: str
    skipped: bool
    samples: int
    clipped: dict[str, int]


def convert(
    root: str | Path,
    out: str | Path,
    *,
    subtype: str = "PCM_16",
    stems: Sequence[str] = STEMS,
    missing_as_silence: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> list[Converted]:
    """Write a data set as ``out/{train,test}/<track>/<stem>.wav``, with a mixture for each track.

    A track without a mixture gets the sum of its stems. Integers are rounded to the nearest value
    without dither, so that integer samples are unchanged.

    Args:
        root: The data set.
        out: Folder to write to; complete tracks in it are skipped.
        subtype: ``PCM_16``, ``PCM_24`` or ``FLOAT``.
        stems: Names of the stems.
        missing_as_silence: Write silence for missing stems.
        workers: Number of threads; by default one per core, at most 8.
        progress: Show a progress bar.

    Returns:
        The result for each track.

    Raises:
        DataError: Some tracks are faulty (the others are written), the disk is full, or ``out`` and
            ``root`` overlap.
        FFmpegMissingError: A .stem.mp4 must be decoded, and ffmpeg is not installed.
    """
    if subtype not in SUBTYPES:
        raise DataError(f"subtype is {subtype!r}: must be one of {', '.join(SUBTYPES)}")
    root, out = Path(root).expanduser(), Path(out).expanduser()
    entries = [
        entry for subset in subsets_of(root, stems) for entry in find_entries(root, subset, stems)
    ]
    _check_no_overlap(root, out, entries)

    def convert_one(entry: Entry) -> Converted:
        target = out / entry.subset / entry.name
        if _is_complete(target, entry, (*stems, MIXTURE), subtype):
            return Converted(entry.subset, entry.name, True, 0, {})
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=out) as scratch:
            track = _check_and_decode(entry, Path(scratch), stems, missing_as_silence)
            folder = Path(scratch, "track")
            folder.mkdir()
            names = (*stems, MIXTURE)
            clipped = {name: _write(track, name, folder / f"{name}.wav", subtype) for name in names}
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # an incomplete track
                os.replace(target, Path(scratch, "old"))
            os.replace(folder, target)
        written = track.samples * track.channels * len(names)
        clipped = {name: samples for name, samples in clipped.items() if samples}
        return Converted(entry.subset, entry.name, False, written, clipped)

    def on_busy() -> None:
        raise DataError(
            f"{out}: another conversion is writing to this folder; wait for it to end, or stop it"
        )

    try:
        out.mkdir(parents=True, exist_ok=True)
        with file_lock(out / ".convert.lock", on_busy):
            for leftover in out.glob(f"{_PARTIAL}*"):  # of a run that was killed
                shutil.rmtree(leftover)
            threads = workers or min(8, os.cpu_count() or 1)
            return for_each(convert_one, entries, "converting", progress, threads)
    except OSError as error:
        raise _unwritable(out, str(error)) from error


def _unwritable(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: cannot be written ({reason}); free space or set OUT to a folder on another disk, "
        "and run the command again: complete tracks are kept"
    )


def _check_no_overlap(root: Path, out: Path, entries: Sequence[Entry]) -> None:
    """Raise a ``DataError`` if the data set and ``out`` overlap, also through symbolic links."""
    sources = {root.resolve()} | {entry.path.resolve().parent for entry in entries}
    targets = {out.resolve(), (out / "train").resolve(), (out / "test").resolve()}
    for source, target in product(sources, targets):
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise DataError(
                f"{out}: overlaps the data set in {source}, which must not be changed; OUT must "
                "be a folder outside it"
            )


def _is_complete(target: Path, entry: Entry, names: Sequence[str], subtype: str) -> bool:
    """Whether a track was converted to this subtype from the current source files."""
    if not target.is_dir():
        return False
    foreign = sorted(set(os.listdir(target)) - {f"{name}.wav" for name in names})
    if foreign:
        raise DataError(
            f"{target}: contains files that this program did not write "
            f"({', '.join(foreign[:3])}); move them away, or set OUT to another folder"
        )
    files = [target / f"{name}.wav" for name in names]
    sources = [entry.path] if entry.is_stem_file else list(entry.find(names).values())
    try:
        infos = {audio.inspect_seekable(path) for path in files}
        newest = max(path.stat().st_mtime_ns for path in sources)
        oldest = min(path.stat().st_mtime_ns for path in files)
    except (DataError, OSError, ValueError):
        return False
    return len(infos) == 1 and infos.pop().subtype == subtype and newest <= oldest


def _check_and_decode(
    entry: Entry, scratch: Path, stems: Sequence[str], missing_as_silence: bool
) -> Track:
    decoded = {}
    if entry.is_stem_file:
        if (cached := find_decoded(entry.path, stems)) is not None:
            decoded[entry.path] = cached
        else:
            order = stream_order(entry.path, stems)
            decoded_stem_file_size(entry.path, order)  # raises an error if the header is faulty
            streams = scratch / "streams"
            streams.mkdir()
            decode_stem_file(entry.path, streams, order)
            entry = replace(entry, path=streams, mixture_folder=streams, is_stem_file=False)
    (checked,) = check_tracks([entry], decoded, stems, missing_as_silence)
    raise_errors(checked.findings)
    assert checked.track is not None
    return checked.track


def _write(track: Track, name: str, path: Path, subtype: str) -> int:
    """Write one stem; return the number of clipped samples."""
    clipped = position = 0
    files = [track.stems[name]] if name in track.stems else []
    if name == MIXTURE:
        files = [track.mixture] if track.mixture else list(track.stems.values())
    try:
        with soundfile.SoundFile(path, "w", track.sample_rate, track.channels, subtype) as file:
            for block in _sum_of(files, track):
                finite = np.isfinite(block).all(0)
                if not finite.all():
                    file_with_nan = files[0] if len(files) == 1 else path
                    sample = position + int(np.argmin(finite))
                    raise DataError(str(nan_finding(file_with_nan, sample, track.sample_rate)))
                clipped += _write_block(file, block, subtype)
                position += block.shape[-1]
    # libsndfile notices a full disk when writing or closing.
    except (soundfile.SoundFileError, AssertionError) as error:
        raise _unwritable(path.parents[2], str(error) or "the disk is full") from error
    if position < track.samples:
        raise DataError(
            f"{files[0]}: damaged: its header declares {track.samples} samples, but only "
            f"{position} could be read; copy or download the file again"
        )
    return clipped


def _sum_of(files: Sequence[Path], track: Track) -> Iterator[audio.Audio]:
    if not files:  # a missing stem
        for start in range(0, track.samples, _BLOCK_SAMPLES):
            samples = min(_BLOCK_SAMPLES, track.samples - start)
            yield np.zeros((track.channels, samples), np.float32)
        return
    for parts in zip(*(audio.blocks(file, _BLOCK_SAMPLES) for file in files), strict=False):
        yield sum(parts[1:], start=parts[0])


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
    """Run the command line and return the exit status: 0, or 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.convert", description=__doc__)
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
        "--workers", type=command_line.count(), help="threads; by default one per core, at most 8"
    )
    options = vars(parser.parse_args(arguments))
    return command_line.run(
        lambda: _convert(options), "stopped; run the same command again for the remaining tracks"
    )


def _convert(options: dict[str, Any]) -> int:
    command_line.check_folder(Path(options["out"]).expanduser(), "OUT")
    results = convert(**options, progress=True)
    written = [track for track in results if not track.skipped]
    print(
        f"{len(written)} tracks written to {options['out']} as {options['subtype']}, "
        f"{len(results) - len(written)} existed already"
    )
    clipped = [track for track in written if track.clipped]
    for track in clipped:
        counts = ", ".join(f"{stem} {samples}" for stem, samples in track.clipped.items())
        print(f"clipped in {track.subset}/{track.name}: {counts}")
    if clipped:
        total = sum(sum(track.clipped.values()) for track in clipped)
        share = total / sum(track.samples for track in written)
        print(
            f"{total} samples ({share:.2g} of all) exceeded full scale and were clipped; "
            "use --subtype FLOAT to keep them"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
