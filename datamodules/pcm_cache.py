"""The PCM cache: a .stem.mp4 is decoded once, as reading parts of AAC is slow and inexact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules import audio
from datamodules.audio import DataError, FFmpegMissingError
from datamodules.faults import for_each

# Order of the streams in a file of MUSDB18.
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
_PARTIAL = ".partial-"
_LEFTOVER_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Where decoded tracks are kept: ``$STEMLAB_CACHE``, else ``stemlab`` in the user's cache."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("STEMLAB_CACHE") or Path(user_cache, "stemlab")).expanduser()


def decoded_folder(stem_file: Path) -> Path:
    """Say where the decoded streams of a .stem.mp4 are kept: named after its path and state.

    Args:
        stem_file: The file.

    Returns:
        The folder, whether it is there or not yet.
    """
    identity = json.dumps([str(stem_file.resolve()), *state(stem_file)])
    return cache_folder() / "decoded" / hashlib.sha256(identity.encode()).hexdigest()[:24]


def decode(
    stem_files: Sequence[Path], progress: bool, faults: dict[Path, DataError] | None = None
) -> None:
    """Decode the files that are not in the cache yet.

    Args:
        stem_files: Files with the streams of MUSDB18.
        progress: Show a progress bar, and the size beforehand.
        faults: Where given, faulty files are noted here and left out; otherwise one of them
            stops all.

    Raises:
        DataError: A file is faulty, or the cache cannot hold it.
        FFmpegMissingError: A file must be decoded, and ffmpeg is not installed.

    ffmpeg does it directly, with the same samples as stempeg's (a test compares them): stempeg
    ignores whether ffmpeg failed, and holds a whole song with all its stems in memory.
    """

    def pending() -> list[Path]:
        return [path for path in stem_files if not decoded_folder(path).is_dir()]

    if not pending():
        return
    folder = cache_folder() / "decoded"
    audio.require_ffmpeg(f"{pending()[0]}: reading .stem.mp4")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder):
            _decode_into(folder, pending(), progress, faults)
    except OSError as error:
        raise DataError(
            f"{folder}: decoded tracks cannot be written here ({error}); a writable "
            "folder was expected; set STEMLAB_CACHE to one"
        ) from error


def _decode_into(
    folder: Path,
    stem_files: Sequence[Path],
    progress: bool,
    faults: dict[Path, DataError] | None,
) -> None:
    def size(stem_file: Path) -> int:
        with _noting(stem_file, faults):
            return decoded_bytes(stem_file)
        return 0

    needed = sum(for_each(size, stem_files, "checking .stem.mp4", progress))
    stem_files = [path for path in stem_files if not faults or path not in faults]
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: {len(stem_files)} .stem.mp4 files take {needed / 1e9:.1f} GB when decoded, "
            f"{free / 1e9:.1f} GB are free; set STEMLAB_CACHE to a folder on a larger disk"
        )
    if progress and stem_files:
        print(
            f"Decoding {len(stem_files)} .stem.mp4 files, once, into {folder} "
            f"({needed / 1e9:.2f} GB)",
            file=sys.stderr,
            flush=True,
        )

    def decode_one(stem_file: Path) -> None:
        # Only a whole folder gets its lasting name, so that a kill leaves nothing half made.
        with (
            _noting(stem_file, faults),
            tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as partial,
        ):
            streams = Path(partial, "streams")
            streams.mkdir()
            targets = [streams / f"{stem}.wav" for stem in STREAMS]
            audio.decode_streams(stem_file, targets)
            target = decoded_folder(stem_file)
            try:
                os.replace(streams, target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise

    # Threads do: the work is ffmpeg's, in processes of its own.
    for_each(decode_one, stem_files, "decoding", progress, workers=min(4, os.cpu_count() or 1))


@contextmanager
def _noting(stem_file: Path, faults: dict[Path, DataError] | None) -> Iterator[None]:
    """Note a file's fault where faults are collected; let it through otherwise."""
    try:
        yield
    except FFmpegMissingError:
        raise
    except DataError as fault:
        if faults is None:
            raise
        faults[stem_file] = fault


def decoded_bytes(stem_file: Path) -> int:
    """Check the header of a .stem.mp4, and say what it takes when decoded.

    Args:
        stem_file: The file.

    Returns:
        Size of its streams as float32, bytes.

    Raises:
        DataError: It is no file with the streams of MUSDB18.
        FFmpegMissingError: ffmpeg is not installed.
    """
    streams = audio.inspect_streams(stem_file)
    expected = len(STREAMS)
    if len(streams) < expected:
        raise DataError(
            f"{stem_file}: has {len(streams)} audio streams, {expected} were expected "
            f"({', '.join(STREAMS)}); replace or remove it"
        )
    return sum(4 * stream.samples * stream.channels for stream in streams[:expected])


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process decode at a time, so that the ranks of a node share the work of the first."""
    with (folder / ".lock").open("w") as lock:
        # Where the system has no such locks every process decodes for itself: slow, but right.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(f"{_PARTIAL}*"):  # of a process that was killed
            with suppress(OSError):
                if leftover.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
                    shutil.rmtree(leftover)
        yield


def state(path: Path) -> list[int]:
    """Tell a file's state: size in bytes and time of change; other ones mean another content.

    Args:
        path: The file.

    Returns:
        Both numbers.

    Raises:
        DataError: The file is not there.
    """
    try:
        status = path.stat()
    except OSError as error:  # a dangling link, for one
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), an audio file was expected; restore or "
            "remove it"
        ) from error
    return [status.st_size, status.st_mtime_ns]
