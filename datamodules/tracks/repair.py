"""Repair of a track whose files do not match: one length, sample rate and number of channels.

- The sample rate and the length are those of most files, and the number of channels is that of
  most files that are not mono. If two values are equally frequent, it is the mixture's, or the
  larger one.
- Files of another rate are resampled, mono files are repeated in all channels, and at the end short
  files are padded with silence and long ones are cut.
- Files whose length must be counted, such as MP3, are decoded to a temporary copy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from datamodules.cache.pcm import find_decoded
from datamodules.cache.stem_files import decode_stem_file, decoded_stem_file_size, stream_order
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.audio import Audio, AudioInfo
from datamodules.files.find import SUFFIXES
from datamodules.files.names import match, suffix_of, without_suffix
from datamodules.files.resampling import resample_blocks, resampled_length
from datamodules.files.song import open_song
from datamodules.parallel import raise_faults
from datamodules.tracks.checks import nan_finding
from datamodules.tracks.entries import FORMATS, MIXTURE, Entry
from datamodules.tracks.findings import raise_errors
from datamodules.tracks.index import check_tracks

BLOCK_SAMPLES = 2**16
# A larger difference of lengths is not due to a codec or an editor: perhaps another version.
_SUSPICIOUS_SECONDS = 1.0
# Names of findings that are no error here. Unreadable files may only lack a length.
_REPAIRABLE = ("unlike-length", "unlike-rate", "unlike-channels", "unreadable")


@dataclass(frozen=True)
class Format:
    """What all files of a track have in common."""

    samples: int
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Source:
    """A file of a track.

    Attributes:
        stem: Name of its stem, of which it may be a part, or ``mixture``.
        path: The file in the data set, for messages.
        file: The file to read: ``path`` or a decoded copy.
        info: Header of ``file``.
        notes: What was done to read it.
    """

    stem: str
    path: Path
    file: Path
    info: AudioInfo
    notes: list[str] = field(default_factory=list)


def find_files(entry: Entry, stems: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Find the files of stems and mixture, also in formats that training does not read."""
    if entry.is_stem_file:
        return {MIXTURE: (entry.path,)}
    files = entry.find(stems)
    if entry.parts is not None:
        return files
    for folder, names in ((entry.path, stems), (entry.mixture_folder, [MIXTURE])):
        if folder.is_dir():
            others = {
                without_suffix(name): name
                for name in sorted(os.listdir(folder), reverse=True)
                if suffix_of(name) in SUFFIXES
            }
            found = match([name for name in names if name not in files], others)
            files |= {name: (folder / others[other],) for name, other in found.items()}
    return files


def open_track(
    entry: Entry,
    scratch: Path,
    stems: Sequence[str],
    missing_as_silence: bool = False,
    strict: bool = False,
) -> tuple[list[Source], list[str]]:
    """Find and open the files of a track.

    Args:
        entry: The track.
        scratch: Folder for decoded copies.
        stems: Names of the stems that it must have.
        missing_as_silence: Missing stems are not an error, if there is at least one.
        strict: Files that do not match, or that training cannot read, are errors.

    Returns:
        The files of all stems and, last, of the mixture; and warnings.

    Raises:
        DataError: Stems are missing, or files unreadable or damaged.
        FFmpegMissingError: ffmpeg is needed to read a file, and is not installed.
    """
    decoded = {}
    label, is_stem_file = entry.path, entry.is_stem_file
    if is_stem_file:
        if cached := find_decoded(entry.path, stems):
            decoded[entry.path] = cached
            names = [name for name in (*stems, MIXTURE) if name in cached.infos]
            files: dict[str, tuple[Path, ...]] = {name: (cached.file(name),) for name in names}
        else:
            entry = _decode_streams(entry, scratch / "streams", stems)
            files = entry.find(stems)
    else:
        files = find_files(entry, stems)
    (checked,) = check_tracks([entry], decoded, stems, missing_as_silence, mixing=False)
    no_errors: tuple[str, ...] = ()
    if not strict:
        is_complete = set(stems) <= files.keys()
        no_errors = (*_REPAIRABLE, "missing-stem") if is_complete else _REPAIRABLE
    raise_errors(finding for finding in checked.findings if finding.name not in no_errors)
    copies = scratch / "decoded"
    copies.mkdir()
    sources, faults = [], []
    for name, path in ((name, path) for name, paths in files.items() for path in paths):
        try:
            shown = Path(f"{label} ({name})") if is_stem_file else path
            sources.append(_open_source(name, path, shown, copies))
        except DataError as fault:
            faults.append(str(fault))
    raise_faults(faults)
    warnings = [str(finding) for finding in checked.findings if finding.severity == "warning"]
    if is_stem_file and not decoded and (note := stream_order(label, stems).note):
        warnings.append(f"{label}: {note}")
    return sources, warnings


def _decode_streams(entry: Entry, folder: Path, stems: Sequence[str]) -> Entry:
    order = stream_order(entry.path, stems)
    decoded_stem_file_size(entry.path, order)  # raises an error if the header is faulty
    folder.mkdir()
    decode_stem_file(entry.path, folder, order)
    return replace(entry, path=folder, mixture_folder=folder, is_stem_file=False, content=None)


def _open_source(stem: str, path: Path, shown: Path, copies: Path) -> Source:
    """Read the header of a file; decode it into ``copies`` if it does not declare its length."""
    try:
        info = audio.inspect_seekable(path)
        if not info.subtype.startswith("MPEG"):  # the length of an MP3 is an estimate
            return Source(stem, shown, path, info)
    except DataError:
        pass  # decoding finds the reason, unless only the length was missing
    copy = _decode(path, copies / f"{len(list(copies.iterdir()))}.wav")
    note = "read to its end, as its header is unfinished"
    if suffix_of(path) not in FORMATS:
        note = f"decoded from {suffix_of(path)[1:].upper()}"
    return Source(stem, shown, copy, audio.inspect_seekable(copy), [note])


def _decode(path: Path, copy: Path) -> Path:
    song = open_song(path, BLOCK_SAMPLES)
    info = song.info
    size = {"samplerate": info.sample_rate, "channels": info.channels}
    with soundfile.SoundFile(copy, "w", **size, subtype="FLOAT", format="RF64") as file:
        for block in song.blocks:
            file.write(block.T)
    if shortfall := song.shortfall():
        raise DataError(shortfall)
    return copy


def common_format(sources: Sequence[Source], longest: bool = False) -> Format:
    """Determine length, rate and channels of a track's files after the repair.

    Args:
        sources: The files; at least one.
        longest: The length is that of the longest file, so that none is cut.

    Raises:
        DataError: Files have different numbers of channels, and not only mono.
    """
    channels = _most_common(
        [(source.stem, source.info.channels) for source in sources if source.info.channels > 1]
        or [(MIXTURE, 1)]
    )
    for source in sources:
        if source.info.channels not in (1, channels):
            raise DataError(
                f"{source.path}: has {source.info.channels} channels, but other files of the track "
                f"have {channels}: only mono can be repaired; mix the file down"
            )
    rate = _most_common([(source.stem, source.info.sample_rate) for source in sources])
    lengths = [(source.stem, _length(source, rate)) for source in sources]
    samples = max(length for _, length in lengths) if longest else _most_common(lengths)
    return Format(samples, rate, channels)


def _most_common(values: Sequence[tuple[str, int]]) -> int:
    """The most frequent value; of several the mixture's, else the largest."""
    counts = Counter(value for _, value in values)
    frequent = [value for value, count in counts.items() if count == max(counts.values())]
    mixture = dict(values).get(MIXTURE)
    return mixture if mixture in frequent else max(frequent)


def _length(source: Source, rate: int) -> int:
    return resampled_length(source.info.samples, source.info.sample_rate, rate)


def repairs(source: Source, target: Format) -> list[str]:
    """What is done to a file, in words; empty if nothing is."""
    done = list(source.notes)
    if source.info.channels != target.channels:
        done.append(f"mono, repeated in {target.channels} channels")
    if source.info.sample_rate != target.sample_rate:
        done.append(f"resampled from {source.info.sample_rate} to {target.sample_rate} Hz")
    missing = target.samples - _length(source, target.sample_rate)
    if missing:
        seconds = abs(missing) / target.sample_rate
        how_much = f"{abs(missing)} sample{'s' * (abs(missing) > 1)} ({seconds:.3f} s)"
        padded = f"padded at the end with {how_much} of silence"
        done.append(padded if missing > 0 else f"cut at the end by {how_much}")
    return done


def suspicions(source: Source, target: Format) -> list[str]:
    """A warning if a file has an entirely different length than its track."""
    seconds = (_length(source, target.sample_rate) - target.samples) / target.sample_rate
    if abs(seconds) <= _SUSPICIOUS_SECONDS:
        return []
    return [
        f"{source.path}: is {abs(seconds):.1f} s {'longer' if seconds > 0 else 'shorter'} than the "
        "other files of the track; check that it is of the same song"
    ]


def repaired_blocks(source: Source, target: Format) -> Iterator[Audio]:
    """Read a file in the target's format: consecutive blocks, all but the last of BLOCK_SAMPLES.

    Yields:
        Waveforms, shape (C, BLOCK_SAMPLES), ``target.samples`` in total.

    Raises:
        DataError: The file is damaged, or holds NaN or infinity.
    """
    info = source.info
    blocks = _checked_blocks(source)
    if info.sample_rate != target.sample_rate:
        blocks = resample_blocks(blocks, info.channels, info.sample_rate, target.sample_rate)
    left = target.samples
    silence = (np.zeros((info.channels, BLOCK_SAMPLES), np.float32) for _ in range(left))
    pending = np.empty((info.channels, 0), np.float32)
    for block in chain(blocks, silence):
        pending = np.concatenate([pending, block], -1)
        while left and pending.shape[-1] >= min(left, BLOCK_SAMPLES):
            part, pending = np.split(pending, [min(left, BLOCK_SAMPLES)], -1)
            left -= part.shape[-1]
            yield np.repeat(part, target.channels // info.channels, 0)
        if not left:
            return


def _checked_blocks(source: Source) -> Iterator[Audio]:
    position = 0
    for block in audio.blocks(source.file, BLOCK_SAMPLES):
        finite = np.isfinite(block).all(0)
        if not finite.all():
            sample = position + int(np.argmin(finite))
            raise DataError(str(nan_finding(source.path, sample, source.info.sample_rate)))
        position += block.shape[-1]
        yield block
    if position < source.info.samples:
        raise DataError(
            f"{source.path}: damaged: its header declares {source.info.samples} samples, but only "
            f"{position} could be read; copy or download the file again"
        )
