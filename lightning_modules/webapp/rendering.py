"""Files made from a song's tracks: samples for the player, plots and downloads."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.errors import DataError
from datamodules.files.audio import Audio, read
from datamodules.files.tags import read_tags
from datamodules.files.writing import is_full
from lightning_modules.inference.encoding import Encoding
from lightning_modules.inference.stem_files import SeparatingModule, StemFiles
from lightning_modules.plots.sound import track_strips
from lightning_modules.plots.style import save
from lightning_modules.webapp.workspace import DISK_FULL, Song, Track, Workspace

PICTURES = ("waveform", "spectrogram")
MAX_LEVEL = 2.0  # about 6 dB
MAX_SECONDS = 10  # of audio per response
_BLOCK_SAMPLES = 2**18


def headroom(song: Song) -> float:
    """Divisor of the player's samples that prevents clipping, at least 1."""
    return max([1.0, *song.peaks])


def pcm(song: Song, start: int, samples: int) -> bytes:
    """Read a section of all tracks together, so that they stay synchronous.

    Args:
        song: The song.
        start: First sample.
        samples: Number of samples; fewer at the end of the song, at most ``MAX_SECONDS``.

    Returns:
        16-bit little-endian integers with full scale ``headroom``, shape (tracks, C, n).
    """
    start = max(0, start)
    samples = max(0, min(samples, MAX_SECONDS * song.sample_rate))
    audio = np.stack([read(track.path, start, samples) for track in song.tracks])
    return (audio * (32767 / headroom(song))).round().astype("<i2").tobytes()


def draw(song: Song, progress: Callable[[float, str], None] = lambda part, what: None) -> None:
    """Draw the plots of all tracks, and find their peaks.

    Args:
        song: The song; its ``peaks`` are set.
        progress: Called with the finished part, 0 to 1, and a description.
    """

    def signals() -> Iterator[Audio]:
        for number, track in enumerate(song.tracks):
            progress(number / len(song.tracks), "drawing")
            signal = read(track.path)
            song.peaks.append(float(np.abs(signal).max(initial=0)))
            yield signal

    for number, figures in enumerate(track_strips(signals(), song.sample_rate)):
        for kind, figure in zip(PICTURES, figures, strict=True):
            save(figure, picture(song, number, kind))


def separate_and_draw(
    workspace: Workspace,
    upload: str,
    models: Mapping[str, SeparatingModule],
    progress: Callable[[float, str], None],
    changes: Mapping[str, Any] | None = None,
) -> Song:
    """Separate an upload and draw its tracks; nothing is left of the song after an error.

    Arguments and errors are those of ``Workspace.separate``.
    """
    song = workspace.separate(upload, models, progress, changes)
    try:
        draw(song, progress)
    except BaseException as error:
        full = is_full(workspace.root, error)
        workspace.remove(song)
        if full:
            raise DataError(f"{Path(upload).name}: {DISK_FULL}") from error
        raise
    return song


def picture(song: Song, number: int, kind: str) -> Path:
    """File of a track's plot of one of the kinds ``PICTURES``."""
    return song.folder / f"{number}-{kind}.png"


def remix(song: Song, levels: Sequence[float]) -> Path:
    """Mix the tracks from their float samples, block by block.

    Args:
        song: The song.
        levels: Gain of each track, from 0 to ``MAX_LEVEL``.

    Returns:
        A new 24-bit WAV, attenuated if it would clip; the caller deletes it.

    Raises:
        DataError: The number of levels or a value is invalid.
    """
    if len(levels) != len(song.tracks) or not all(0 <= x <= MAX_LEVEL for x in levels):
        raise DataError(
            f"levels are {', '.join(map(str, levels))}: give {len(song.tracks)} numbers from 0 to "
            f"{MAX_LEVEL:g}, one per track"
        )
    folder = Path(tempfile.mkdtemp(dir=song.folder))
    try:
        _mix(song, levels, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / "remix.wav"


def _mix(song: Song, levels: Sequence[float], folder: Path) -> None:
    size, tags = (song.sample_rate, song.channels), read_tags(song.source)
    encoding = Encoding("wav", bits=24)
    with ExitStack() as stack:
        files = [
            (stack.enter_context(soundfile.SoundFile(track.path)), level)
            for track, level in zip(song.tracks, levels, strict=True)
            if level
        ]
        mix = stack.enter_context(StemFiles(folder, ["remix"], *size, False, encoding, tags))
        for start in range(0, song.samples, _BLOCK_SAMPLES):
            number = min(_BLOCK_SAMPLES, song.samples - start)
            total = np.zeros((number, song.channels), np.float32)
            for file, level in files:
                total += np.float32(level) * file.read(number, dtype="float32", always_2d=True)
            mix.write(total.T[None])


def archive(song: Song, model: str) -> Path:
    """Pack a model's stems into a zip file, if not done before."""

    def write(target: Path, stems: list[Track]) -> None:
        # Float samples hardly compress, and storing is faster.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
            for stem in stems:
                file.write(stem.path, f"{song.title}/{stem.name}.wav")

    return _made_once(song, model, "zip", write)


def stem_mp4(song: Song, model: str) -> Path:
    """Encode the mixture and a model's stems as a stem.mp4, if not done before.

    Raises:
        FFmpegMissingError: ffmpeg is not installed.
        DataError: ffmpeg failed.
    """
    encoding = Encoding("stem.mp4")

    def write(target: Path, stems: list[Track]) -> None:
        tracks = [song.tracks[0], *stems]
        peaks = dict(zip((track.path for track in song.tracks), song.peaks, strict=True))
        gain = encoding.gain(max(peaks[track.path] for track in tracks))
        sources = {track.name: track.path for track in tracks}
        encoding.write(sources, [target], gain, read_tags(song.source))

    return _made_once(song, model, "stem.mp4", write)


def _made_once(
    song: Song, model: str, suffix: str, write: Callable[[Path, list[Track]], None]
) -> Path:
    stems = song.stems(model)
    path = stems[0].path.parent.with_suffix(f".{suffix}")
    with song.lock:
        if not path.is_file():
            unfinished = path.with_name(f".unfinished.{suffix}")
            try:
                write(unfinished, stems)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
    return path
