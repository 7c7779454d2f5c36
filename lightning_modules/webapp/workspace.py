"""Temporary storage of songs, each in its own folder.

Clients refer to a song by a random token and to its tracks by number, so that no part of a request
becomes part of a path.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from datamodules.errors import DataError, counted
from datamodules.files.info import AudioInfo
from datamodules.files.song import inspect_song, open_song
from datamodules.files.writing import is_full
from lightning_modules.inference.encoding import MIXTURE
from lightning_modules.inference.stem_files import SeparatingModule, StemFiles, separate_file
from lightning_modules.webapp.presets import ALL_STEMS, Preset

# Browsers play at least 8 kHz.
_MIN_RATE_HZ, _MAX_RATE_HZ = 8_000, 192_000
_MAX_CHANNELS = 2
# A folder in an absolute path.
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\":;,()]+/)+")
# Uploads that have not been written to for so long are abandoned.
_ABANDONED_SECONDS = 60
DISK_FULL = "No space left on the disk of the server; try again later, or tell whoever runs it"


@dataclass(frozen=True)
class Limits:
    """Limits of uploads and their storage, all above 0.

    Args:
        minutes: Longest song.
        megabytes: Largest file, in units of 1,000,000 bytes.
        keep_minutes: A song is deleted this long after its last use.
    """

    minutes: float = 15.0
    megabytes: float = 200.0
    keep_minutes: float = 60.0

    def __post_init__(self) -> None:
        options = ("--max-minutes", "--max-mb", "--keep-minutes")
        for option, value in zip(options, astuple(self), strict=True):
            if not value > 0:
                raise DataError(f"{option} is {value:g}: give a number above 0")

    @property
    def bytes(self) -> int:
        """Size of the largest file in bytes."""
        return round(self.megabytes * 1e6)

    def too_long(self, name: str) -> DataError:
        """Error for a song that is longer than the limit."""
        return DataError(
            f"{name}: is longer than {counted(self.minutes, 'minute')}, which is the limit; "
            "shorten it, or use the command-line tool `separate`, which has no limit"
        )


@dataclass(frozen=True)
class Track:
    """A track of the player: the mixture or a stem.

    Attributes:
        name: Source, or ``mixture``.
        model: Name of the model that estimated it; empty for the mixture.
        path: 32-bit float WAV.
        muted: Whether it is muted at first.
    """

    name: str
    model: str
    path: Path
    muted: bool = False


@dataclass
class Song:
    """A song and its separated tracks.

    Attributes:
        folder: Folder of its files.
        title: Its file name without suffix, only for names of downloads.
        source: The uploaded file.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        samples: Length, samples.
        tracks: The mixture, then the stems by model.
        peaks: Largest absolute sample of each track.
        powers: Mean square of each track.
        lock: Held while a download is created.
        used: Time of the last request, seconds of the monotonic clock.
        shortfall: What is missing of a damaged song, for the user; empty if it is complete.
        busy: Whether it is being separated.
    """

    folder: Path
    title: str
    source: Path
    sample_rate: int
    channels: int
    samples: int = 0
    tracks: list[Track] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    used: float = field(default_factory=time.monotonic)
    shortfall: str = ""
    busy: bool = True

    @property
    def token(self) -> str:
        """Random name by which clients refer to the song."""
        return self.folder.name

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(dict.fromkeys(track.model for track in self.tracks if track.model))

    def stems(self, model: str) -> list[Track]:
        """The tracks of one model."""
        return [track for track in self.tracks if track.model == model and model]


class Workspace:
    """Temporary folder of songs; unused songs are deleted, and all at the end."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix="stemlab-webapp-")).resolve()
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        # Gradio stores uploads there; it reads the variable when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = str(self.uploads)
        self._songs: dict[str, Song] = {}
        self._stopped = threading.Event()
        threading.Thread(target=self._sweep_regularly, daemon=True).start()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._songs.clear()
        os.environ.pop("GRADIO_TEMP_DIR", None)
        shutil.rmtree(self.root, ignore_errors=True)

    def song(self, token: str) -> Song | None:
        """Find a finished song by its token, and mark it as used; None if it does not exist."""
        song = self._songs.get(token)
        if song is None or song.busy:
            return None
        song.used = time.monotonic()
        return song

    def separate(
        self,
        upload: str | Path,
        models: Mapping[str, SeparatingModule],
        progress: Callable[[float, str], None] = lambda part, what: None,
        changes: Mapping[str, Any] | None = None,
        preset: Preset = ALL_STEMS,
    ) -> Song:
        """Separate an uploaded song with one or more models.

        Args:
            upload: A file below ``uploads``.
            models: Name -> model.
            progress: Called with the finished part, 0 to 1, and what is being done.
            changes: Settings of separation that replace those of the models, by name.
            preset: Which stems to compute.

        Returns:
            The song with its tracks.

        Raises:
            DataError: The file is not audio, too large or too long, or cannot be separated, or the
                disk is full; the message contains the user's file name.
        """
        upload = Path(upload)
        song = None
        try:
            song = self._admit(upload)
            self._decode(song, upload.name)
            if song.shortfall:
                song.shortfall = self._public(song.shortfall, song.source, upload)
            parts = len(models) * song.samples
            done = 0

            def advance(what: str, samples: int) -> None:
                nonlocal done
                if self._stopped.is_set():
                    raise DataError("the app is shutting down; try again when it is running")
                done += samples
                progress(min(1.0, done / parts), what)

            for number, (name, model) in enumerate(models.items()):
                what = f"Separating with {name}"
                progress(done / parts, what)
                folder = song.folder / str(number)
                settings = model.separation_settings.changed(**changes or {})
                report = partial(advance, what)
                separate_file(
                    model,
                    song.source,
                    folder,
                    selection=preset.selection,
                    progress=report,
                    settings=settings,
                )
                for stem in preset.selection.names(model.sources):
                    muted = stem in preset.muted
                    song.tracks.append(Track(stem, name, folder / f"{stem}.wav", muted))
            song.busy = False
            song.used = time.monotonic()
        except BaseException as error:
            full = is_full(self.root, error)
            if song is not None:
                self.remove(song)
            if full:
                raise DataError(f"{upload.name}: {DISK_FULL}") from error
            if not isinstance(error, DataError | OSError):
                raise
            raise DataError(
                self._public(str(error), song.source if song else None, upload)
            ) from error
        return song

    @staticmethod
    def _public(message: str, source: Path | None, upload: Path) -> str:
        """Replace the song's paths by the user's name of it, and drop the folders of others."""
        for path in (source, upload):
            message = message.replace(str(path or upload), upload.name)
        return public(message)

    def remove(self, song: Song) -> None:
        """Delete a song and its files."""
        self._songs.pop(song.token, None)
        shutil.rmtree(song.folder, ignore_errors=True)

    def sweep(self, now: float | None = None) -> None:
        """Delete songs and uploads not used for ``keep_minutes`` (``now``: monotonic clock)."""
        now = time.monotonic() if now is None else now
        keep = 60 * self.limits.keep_minutes
        for song in list(self._songs.values()):
            if not song.busy and now - song.used > keep:
                self.remove(song)
        wall_clock = time.time() + now - time.monotonic()  # clock of file times
        for path in self.uploads.rglob("*"):
            # Gradio writes an upload here, and moves it to a folder when it is complete.
            limit = min(keep, _ABANDONED_SECONDS) if path.parent == self.uploads else keep
            try:
                if path.is_file() and wall_clock - path.stat().st_mtime > limit:
                    path.unlink()
            except OSError:
                continue  # deleted in the meantime

    def _sweep_regularly(self) -> None:
        while not self._stopped.wait(min(60.0, 15 * self.limits.keep_minutes)):
            self.sweep()

    def check(self, upload: Path) -> AudioInfo:
        """Check an upload by its header.

        Raises:
            DataError: It cannot be separated; the message contains the user's file name.
        """
        if not upload.resolve().is_relative_to(self.uploads) or not upload.is_file():
            raise DataError(f"{upload.name}: is no longer available; upload it again")
        size = upload.stat().st_size
        if size > self.limits.bytes:
            raise DataError(
                f"{upload.name}: has {size / 1e6:.1f} MB, the limit is {self.limits.megabytes:g}; "
                "convert it to MP3 or FLAC, or shorten it"
            )
        try:
            info = inspect_song(upload)
        except (DataError, OSError) as error:
            raise DataError(self._public(str(error), None, upload)) from error
        if info.channels > _MAX_CHANNELS or not _MIN_RATE_HZ <= info.sample_rate <= _MAX_RATE_HZ:
            raise DataError(
                f"{upload.name}: has {info.channels} channels at {info.sample_rate} Hz, expected "
                f"mono or stereo at {_MIN_RATE_HZ} to {_MAX_RATE_HZ} Hz; convert it, for example "
                "with: ffmpeg -i OLD -ac 2 -ar 44100 NEW.wav"
            )
        return info

    def _admit(self, upload: Path) -> Song:
        """Check an upload and create its folder."""
        info = self.check(upload)
        folder = self.root / secrets.token_urlsafe(16)
        folder.mkdir()
        # Equal uploads share one file, which may be deleted before the song is.
        source = folder / f"song{upload.suffix[:16]}"
        os.link(upload, source)
        title = upload.stem.strip(". ") or "song"  # names a folder in downloads
        song = Song(folder, title, source, info.sample_rate, info.channels)
        self._songs[song.token] = song
        return song

    def _decode(self, song: Song, name: str) -> None:
        """Write the mixture as float WAV; its length is known only then, headers may be wrong."""
        limit = round(60 * self.limits.minutes * song.sample_rate)
        opened = open_song(song.source, 10 * song.sample_rate)
        with StemFiles(song.folder, [MIXTURE], song.sample_rate, song.channels) as file:
            for block in opened.blocks:
                song.samples += block.shape[-1]
                if song.samples > limit:
                    raise self.limits.too_long(name)
                file.write(block[None])
        song.shortfall = opened.shortfall() or ""
        path = song.folder / f"{MIXTURE}.wav"
        song.samples = soundfile.info(path).frames
        song.tracks.append(Track(MIXTURE, "", path))


def public(message: str) -> str:
    """Return a message without the folders of the server."""
    return _FOLDERS.sub("", message)
