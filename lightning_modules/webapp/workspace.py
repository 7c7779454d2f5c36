"""Temporary storage of songs, each in its own folder.

Clients refer to a song by a random token and to its tracks by number, so that no part of a request
becomes part of a path.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

import soundfile

from datamodules.errors import DataError
from datamodules.files.audio import blocks, inspect
from lightning_modules.inference.encoding import MIXTURE
from lightning_modules.inference.stem_files import SeparatingModule, StemFiles, separate_file

_MAX_RATE_HZ = 192_000
_MAX_CHANNELS = 2


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

    def too_long(self, name: str, minutes: float) -> DataError:
        """Error for a song that is longer than the limit."""
        return DataError(
            f"{name}: is {minutes:.1f} minutes long, the limit is {self.minutes:g}; shorten it, or "
            "use the command-line tool `separate`, which has no limit"
        )


@dataclass(frozen=True)
class Track:
    """A track of the player: the mixture or a stem.

    Attributes:
        name: Source, or ``mixture``.
        model: Name of the model that estimated it; empty for the mixture.
        path: 32-bit float WAV.
    """

    name: str
    model: str
    path: Path


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
        lock: Held while a download is created.
        used: Time of the last request, seconds of the monotonic clock.
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
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    used: float = field(default_factory=time.monotonic)
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
    ) -> Song:
        """Separate an uploaded song with one or more models.

        Args:
            upload: A file below ``uploads``.
            models: Name -> model.
            progress: Called with the finished part, 0 to 1, and the name of the model.

        Returns:
            The song with its tracks.

        Raises:
            DataError: The file is not audio, too large or too long, or cannot be separated; the
                message contains the user's file name.
        """
        upload = Path(upload)
        song = None
        try:
            song = self._admit(upload)
            self._decode(song, upload.name)
            parts = len(models) * song.samples
            done = 0

            def advance(what: str, samples: int) -> None:
                nonlocal done
                if self._stopped.is_set():
                    raise DataError("the app is shutting down; try again when it is running")
                done += samples
                progress(min(1.0, done / parts), what)

            for number, (name, model) in enumerate(models.items()):
                progress(done / parts, name)
                folder = song.folder / str(number)
                separate_file(model, song.source, folder, progress=partial(advance, name))
                for source in model.sources:
                    song.tracks.append(Track(source, name, folder / f"{source}.wav"))
            song.busy = False
            song.used = time.monotonic()
        except BaseException as error:
            if song is not None:
                self.remove(song)
            if not isinstance(error, (OSError, ValueError)):
                raise
            # Do not leak server paths.
            message = str(error)
            for path in (song.source if song else upload, upload):
                message = message.replace(str(path), upload.name)
            raise DataError(message) from error
        return song

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
            try:
                if path.is_file() and wall_clock - path.stat().st_mtime > keep:
                    path.unlink()
            except OSError:
                continue  # deleted in the meantime

    def _sweep_regularly(self) -> None:
        while not self._stopped.wait(min(60.0, 15 * self.limits.keep_minutes)):
            self.sweep()

    def _admit(self, upload: Path) -> Song:
        """Check an upload by its header and create its folder."""
        if not upload.resolve().is_relative_to(self.uploads) or not upload.is_file():
            raise DataError(f"{upload.name}: is no longer available; upload it again")
        size = upload.stat().st_size
        if size > self.limits.bytes:
            raise DataError(
                f"{upload.name}: has {size / 1e6:.1f} MB, the limit is {self.limits.megabytes:g}; "
                "convert it to MP3 or FLAC, or shorten it"
            )
        info = inspect(upload)
        minutes = info.samples / info.sample_rate / 60
        if minutes > self.limits.minutes:
            raise self.limits.too_long(upload.name, minutes)
        if info.channels > _MAX_CHANNELS or info.sample_rate > _MAX_RATE_HZ:
            raise DataError(
                f"{upload.name}: has {info.channels} channels at {info.sample_rate} Hz, expected "
                f"mono or stereo at up to {_MAX_RATE_HZ} Hz; convert it, for example with: "
                "ffmpeg -i OLD -ac 2 -ar 44100 NEW.wav"
            )
        folder = self.root / secrets.token_urlsafe(16)
        folder.mkdir()
        # Equal uploads share one file, which may be deleted before the song is.
        source = folder / f"song{upload.suffix}"
        os.link(upload, source)
        song = Song(folder, upload.stem, source, info.sample_rate, info.channels)
        self._songs[song.token] = song
        return song

    def _decode(self, song: Song, name: str) -> None:
        """Write the mixture as float WAV; its exact length is known only afterwards."""
        limit = round(60 * self.limits.minutes * song.sample_rate)
        with StemFiles(song.folder, [MIXTURE], song.sample_rate, song.channels) as file:
            for block in blocks(song.source, 10 * song.sample_rate):
                song.samples += block.shape[-1]
                # The length in a container's header may be an estimate.
                if song.samples > limit + song.sample_rate:
                    raise self.limits.too_long(name, song.samples / song.sample_rate / 60)
                file.write(block[None])
        path = song.folder / f"{MIXTURE}.wav"
        song.samples = soundfile.info(path).frames
        song.tracks.append(Track(MIXTURE, "", path))
