"""The PCM cache: copies of audio files, decoded or resampled, that can be memory-mapped.

Seeking in AAC is slow and inexact, and FLAC would be decoded again for each crop. The WAV files of
the cache are memory-mapped (see ``files/mapped_wav.py``).

An entry is a folder named after the hash of the original file's content, so that a copied, moved or
touched file is not decoded again. Its files are compared with their checksums when a process first
uses it. An entry that does not match its manifest is created again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from datamodules.cache.file_facts import Known
from datamodules.cache.folder import (
    MANIFEST,
    Decoded,
    cache_lock,
    checksum,
    decoded_folder,
    file_facts,
    is_content_hash,
    read_entry,
    write_manifest,
)
from datamodules.cache.mixes import Mix, write_mix
from datamodules.cache.stem_files import (
    decode_stem_file,
    decoded_stem_file_size,
    mixture_error,
    order_suffix,
    stream_order,
    stream_orders,
)
from datamodules.errors import DataError, FFmpegMissingError, counted
from datamodules.files import audio, ffmpeg
from datamodules.files.names import is_stem_file
from datamodules.files.resampling import resample_file, resampled_length
from datamodules.files.state import State, changed_error, state
from datamodules.files.stream_names import STREAMS, StreamOrder
from datamodules.files.writing import is_full
from datamodules.parallel import for_each, raise_faults
from datamodules.unfinished import sync, unfinished_folder

_STEMS = STREAMS[1:]
_WORKERS = min(4, os.cpu_count() or 1)


def find_decoded(path: Path, stems: Sequence[str] = _STEMS) -> Decoded | None:
    """Look up a file in the cache; None if it has no complete, undamaged entry. See `decode`."""
    hashes, faults = _content_hashes([path], False)
    if faults:
        raise faults[path]
    order = stream_order(path, stems) if is_stem_file(path) else None
    folder = decoded_folder() / (hashes[path].value + order_suffix(order))
    return _intact_entries([folder], False).get(folder)


def _intact_entries(folders: Iterable[Path], progress: bool) -> dict[Path, Decoded]:
    """Read those entries that exist and whose files match their checksums."""
    entries = {folder: entry for folder in folders if (entry := read_entry(folder))}
    matching = for_each(
        _is_intact, list(entries.values()), "checking the cache", progress, _WORKERS
    )
    return {folder: entries[folder] for folder, fits in zip(entries, matching, strict=True) if fits}


# Files that matched their checksums -> size, times and inode at that time.
_matched: dict[Path, tuple[int, ...]] = {}


def _is_intact(entry: Decoded | None) -> bool:
    """Whether the files of an entry match their checksums; each is read once per process."""
    if entry is None:
        return False
    # The first process of a node has read the files in `prepare_data`.
    local_rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    if local_rank != "0":
        return True
    for name, expected in entry.checksums.items():
        path = entry.file(name)
        try:
            status = path.stat()
            current = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            if _matched.get(path) != current:
                if checksum(path) != expected:
                    return False
                _matched[path] = current
        except OSError:  # such as a bad sector
            return False
    return True


def _content_hashes(
    paths: Sequence[Path], progress: bool
) -> tuple[dict[Path, Known], dict[Path, DataError]]:
    def content_hash(path: Path) -> str:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, _hash).hexdigest()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); copy or download it again"
            ) from error

    return file_facts().look_up(
        "content", content_hash, paths, "hashing", progress, _WORKERS, is_valid=is_content_hash
    )


def _hash() -> Any:
    return hashlib.blake2b(digest_size=16)


def decode(
    paths: Sequence[Path],
    progress: bool,
    faults: dict[Path, DataError] | None = None,
    sample_rate: int | None = None,
    stems: Sequence[str] = _STEMS,
) -> dict[Path, Decoded]:
    """Decode the files that are not in the cache.

    A .stem.mp4 becomes one float WAV file per stream, as AAC exceeds full scale. Any other file
    becomes ``audio.wav``: 16-bit if the file is 16-bit and is not resampled, otherwise 32-bit
    float, which represents 24-bit integers exactly.

    ffmpeg is called directly, because stempeg ignores ffmpeg's exit status and keeps all stems of a
    song in memory. The samples are the same (tested).

    Args:
        paths: The files.
        progress: Show a progress bar, and before it the required disk space.
        faults: If given, the error of each faulty file is stored here and the file is left out; by
            default the errors are raised.
        sample_rate: Resample to this rate, Hz; not for .stem.mp4.
        stems: Names of the data set's stems, by which the streams of a .stem.mp4 are found.

    Returns:
        File -> its entry in the cache.

    Raises:
        DataError: A file is faulty, or the cache is not writable or has too little space.
        FFmpegMissingError: A file must be decoded, and ffmpeg is not installed.
    """
    hashes, unreadable = _content_hashes(paths, progress)
    orders, unordered = stream_orders(list(hashes), stems, progress)
    unreadable |= unordered
    if faults is None:
        raise_faults([str(fault) for fault in unreadable.values()])
    else:
        faults.update(unreadable)

    rate = f"-{sample_rate}" if sample_rate else ""
    folders = {
        path: decoded_folder() / (content + (rate or order_suffix(orders.get(path))))
        for path, (_, content) in hashes.items()
        if path not in unreadable
    }
    # Keyed by folder, so that identical files are decoded once.
    jobs = {
        folder: _Job(path, [hashes[path].state], folder, sample_rate, orders.get(path))
        for path, folder in folders.items()
    }
    entries = _obtain(jobs, progress, faults)
    if faults:
        for path, folder in folders.items():  # identical files have the same faults
            decoded_path = jobs[folder].path
            if folder not in entries and path not in faults:
                message = str(faults[decoded_path]).replace(str(decoded_path), str(path))
                faults[path] = DataError(message)
    return {path: entries[folder] for path, folder in folders.items() if folder in entries}


def mix(
    mixes: Sequence[Mix], progress: bool, faults: dict[Path, DataError] | None = None
) -> dict[Mix, Decoded]:
    """Compute sums of files that are not in the cache; arguments and errors as for `decode`.

    Returns:
        Sum -> its entry in the cache, with the file ``audio``. A fault of a sum is that of its
        first file.
    """
    files = list(dict.fromkeys(path for each in mixes for path in each.files))
    hashes, unreadable = _content_hashes(files, progress)
    if faults is None:
        raise_faults([str(fault) for fault in unreadable.values()])
    contents = {path: known.value for path, known in hashes.items()}
    folders: dict[Mix, Path] = {}
    for each in mixes:
        missing = [unreadable[path] for path in each.files if path in unreadable]
        if missing and faults is not None:
            faults[each.files[0]] = missing[0]
            continue
        digest = hashlib.blake2b(each.name(contents).encode(), digest_size=16).hexdigest()
        folders[each] = decoded_folder() / digest
    jobs = {
        folder: _Job(
            each.files[0], [hashes[path].state for path in each.files], folder, None, None, each
        )
        for each, folder in folders.items()
    }
    entries = _obtain(jobs, progress, faults)
    return {each: entries[folder] for each, folder in folders.items() if folder in entries}


def _obtain(
    jobs: Mapping[Path, _Job], progress: bool, faults: dict[Path, DataError] | None
) -> dict[Path, Decoded]:
    """Read the entries that exist, and create the others: folder -> entry."""
    entries = _intact_entries(jobs, progress)
    pending = [job for folder, job in sorted(jobs.items()) if folder not in entries]
    if pending:
        if stem_files := [job.path for job in pending if job.order]:
            ffmpeg.require_ffmpeg(f"{stem_files[0]}: reading .stem.mp4")
        try:
            decoded_folder().mkdir(parents=True, exist_ok=True)
            with cache_lock(progress):
                entries |= _create_entries(pending, progress, faults)
        except OSError as error:
            raise DataError(
                f"{decoded_folder()}: cannot be written ({error}); set STEMLAB_CACHE to a "
                "writable folder on a disk with enough space"
            ) from error
    return entries


class _Job(NamedTuple):
    path: Path
    states: list[State]  # of the file, or of those of the sum
    folder: Path
    sample_rate: int | None
    order: StreamOrder | None  # of a .stem.mp4
    mix: Mix | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.mix.files if self.mix else (self.path,)


def _create_entries(
    jobs: Sequence[_Job], progress: bool, faults: dict[Path, DataError] | None
) -> dict[Path, Decoded]:
    """Create the entries that no other process has created in the meantime."""
    folder = decoded_folder()
    entries = _intact_entries([job.folder for job in jobs], progress)
    jobs = [job for job in jobs if job.folder not in entries]
    if damaged := [job for job in jobs if job.folder.is_dir()]:
        warnings.warn(_damage(damaged), stacklevel=2)

    def checked_size(job: _Job) -> int:
        with _collecting(job.path, faults):
            return _decoded_size(job)
        return 0

    needed = sum(for_each(checked_size, jobs, "reading headers to decode", progress))
    jobs = [job for job in jobs if not faults or job.path not in faults]
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: decoding {counted(len(jobs), 'file')} needs {needed / 1e9:.1f} GB, but "
            f"only {free / 1e9:.1f} GB are free; set STEMLAB_CACHE to a folder on a larger disk"
        )
    if progress and jobs:
        print(_announcement(jobs, needed), file=sys.stderr, flush=True)

    def create(job: _Job) -> None:
        with _collecting(job.path, faults):
            entries[job.folder] = _create_entry(job)

    # Threads suffice: ffmpeg runs in its own process, and libsndfile releases the GIL.
    for_each(create, jobs, "decoding", progress, _WORKERS)
    return entries


def _announcement(jobs: Sequence[_Job], needed: int) -> str:
    task = f"Decoding {counted(len(jobs), 'file')}"
    if jobs[0].mix:
        files = sum(len(job.files) for job in jobs)
        task = f"Mixing {counted(files, 'file')} to {counted(len(jobs), 'stem')}"
    if sample_rate := jobs[0].sample_rate:
        rates = sorted({audio.inspect_seekable(job.path).sample_rate for job in jobs})
        old_rates = " and ".join(f"{rate} Hz" for rate in rates)
        task = f"Resampling {counted(len(jobs), 'file')} from {old_rates} to {sample_rate} Hz"
    return f"{task}, once, into {decoded_folder()} ({needed / 1e9:.2f} GB)"


def _damage(jobs: Sequence[_Job]) -> str:
    first = jobs[0]
    if len(jobs) == 1:
        return (
            f"{first.folder}: does not match its {MANIFEST}; the entry is created again from "
            f"{first.path}"
        )
    return (
        f"{first.folder} and {counted(len(jobs) - 1, 'other entry', 'other entries')} do not "
        f"match their {MANIFEST}; they are "
        "created again"
    )


def _create_entry(job: _Job) -> Decoded:
    path, target = job.path, job.folder
    # Written to a temporary folder, which is renamed when complete: a kill leaves no partial entry.
    with unfinished_folder(target.parent) as scratch:
        new_entry = scratch / "entry"
        new_entry.mkdir()
        with decoding_errors(target.parent, path):
            if job.mix:
                write_mix(job.mix, new_entry / "audio.wav")
            elif job.order:
                decode_stem_file(path, new_entry, job.order)
            elif job.sample_rate:
                resample_file(path, new_entry / "audio.wav", job.sample_rate)
            else:
                is_16_bit = audio.inspect_seekable(path).subtype == "PCM_16"
                audio.rewrite(path, new_entry / "audio.wav", "PCM_16" if is_16_bit else "FLOAT")
            for file, old in zip(job.files, job.states, strict=True):
                if not state(file).is_same(old):
                    raise changed_error(file)  # the entry's name contains the old hash
            error = mixture_error(new_entry, job.order) if job.order else ""
            write_manifest(new_entry, path, error)
            sync(new_entry)
        if target.is_dir() and not _is_intact(read_entry(target)):
            os.replace(target, scratch / "old")
        try:
            os.replace(new_entry, target)
        except OSError:  # on file systems without locks, another process may have been faster
            if read_entry(target) is None:
                raise
    entry = read_entry(target)
    assert entry is not None
    return entry


def _decoded_size(job: _Job) -> int:
    """Check a file's header and compute the size of its decoded copy, bytes."""
    path, sample_rate = job.path, job.sample_rate
    if job.mix:
        return 4 * job.mix.samples * job.mix.channels
    if job.order:
        return decoded_stem_file_size(path, job.order)
    info = audio.inspect_seekable(path)
    if sample_rate:
        samples = resampled_length(info.samples, info.sample_rate, sample_rate)
        return 4 * info.channels * samples
    return (2 if info.subtype == "PCM_16" else 4) * info.samples * info.channels


@contextmanager
def _collecting(path: Path, faults: dict[Path, DataError] | None) -> Iterator[None]:
    """Store a ``DataError`` for ``path`` in ``faults``, or raise it if ``faults`` is None."""
    try:
        yield
    except FFmpegMissingError:
        raise
    except DataError as fault:
        if faults is None:
            raise
        faults[path] = fault


@contextmanager
def decoding_errors(folder: Path, path: Path) -> Iterator[None]:
    """Convert decoding errors to an ``OSError`` if the disk is full, else to a ``DataError``."""
    try:
        yield
    except (soundfile.SoundFileError, AssertionError, DataError) as error:
        if is_full(folder, error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: cannot be decoded into {folder} ({error}); copy or download the file again, "
            "or check the disk"
        ) from error
