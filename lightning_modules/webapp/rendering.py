"""Files made from a song's tracks: samples for the player, plots and downloads."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.errors import DataError
from datamodules.files.audio import Audio, read
from datamodules.files.info import AudioInfo
from datamodules.files.tags import read_tags
from datamodules.files.writing import is_full
from lightning_modules.inference.encoding import Encoding
from lightning_modules.inference.stem_files import SeparatingModule, StemFiles
from lightning_modules.plots.sound import track_strips
from lightning_modules.plots.style import save
from lightning_modules.webapp.jobs import Report
from lightning_modules.webapp.presets import ALL_STEMS, Preset
from lightning_modules.webapp.workspace import DISK_FULL, Song, Workspace

FORMATS = ("wav", "flac", "mp3")
MAX_LEVEL = 2.0  # about 6 dB
MAX_SECONDS = 10  # of audio per response
ENVELOPE_SECTIONS = 8192
# Part of the work that is separation; the rest is drawing.
_SEPARATION = 0.95
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


def draw(song: Song, progress: Report = lambda part, what: None) -> None:
    """Draw the spectrograms and envelopes of all tracks, and measure their levels.

    Args:
        song: The song; its ``peaks`` and ``powers`` are set.
        progress: Called with the finished part, 0 to 1, and a description.
    """
    envelopes: list[Audio] = []

    def signals() -> Iterator[Audio]:
        for number, track in enumerate(song.tracks):
            progress(number / len(song.tracks), "Drawing")
            signal = read(track.path)
            envelopes.append(envelope(signal))
            song.peaks.append(float(np.abs(signal).max(initial=0)))
            song.powers.append(float(np.square(signal, dtype=np.float64).mean()))
            yield signal

    for number, figure in enumerate(track_strips(signals(), song.sample_rate)):
        save(figure, spectrogram(song, number))
    scale = 127 / max(*song.peaks, 1e-6)
    _envelopes(song).write_bytes((np.stack(envelopes) * scale).round().astype("i1").tobytes())


def envelope(signal: Audio) -> Audio:
    """Return minima and maxima of a signal (C, T) over channels and short sections, (2, n)."""
    starts = np.linspace(0, signal.shape[-1], ENVELOPE_SECTIONS, endpoint=False).astype(int)
    starts = np.unique(starts)
    lowest, highest = signal.min(axis=0), signal.max(axis=0)
    return np.stack([np.minimum.reduceat(lowest, starts), np.maximum.reduceat(highest, starts)])


def envelopes(song: Song) -> bytes:
    """Envelopes of all tracks: 8-bit integers relative to the highest peak, (tracks, 2, n)."""
    return _envelopes(song).read_bytes()


def _envelopes(song: Song) -> Path:
    return song.folder / "envelopes"


def separate_and_draw(
    workspace: Workspace,
    upload: str,
    models: Mapping[str, SeparatingModule],
    progress: Report,
    changes: Mapping[str, Any] | None = None,
    preset: Preset = ALL_STEMS,
) -> Song:
    """Separate an upload and draw its tracks; nothing is left of the song after an error.

    Arguments and errors are those of ``Workspace.separate``.
    """
    song = workspace.separate(
        upload, models, lambda part, what: progress(_SEPARATION * part, what), changes, preset
    )
    try:
        draw(song, lambda part, what: progress(_SEPARATION + (1 - _SEPARATION) * part, what))
    except BaseException as error:
        full = is_full(workspace.root, error)
        workspace.remove(song)
        if full:
            raise DataError(f"{Path(upload).name}: {DISK_FULL}") from error
        raise
    return song


def spectrogram(song: Song, number: int) -> Path:
    """File of a track's spectrogram."""
    return song.folder / f"{number}-spectrogram.png"


def formats(song: Song) -> list[str]:
    """Formats that a song's tracks can be downloaded in; the first is lossless 32-bit float."""
    info = AudioInfo(song.samples, song.sample_rate, song.channels, "")
    found = []
    for name in FORMATS:
        with suppress(DataError):  # ffmpeg is missing, or the sample rate is not supported
            Encoding(name).check(song.source, info)
            found.append(name)
    return found


def stem(song: Song, number: int, suffix: str) -> Path:
    """File of a track in a format, encoded if not done before.

    All tracks of a song are turned down by the same factor if one of them would clip.

    Raises:
        DataError: The format cannot be written.
    """
    track = song.tracks[number]
    if suffix == "wav":
        return track.path

    def write(target: Path) -> None:
        encoding = Encoding(suffix)
        gain = encoding.gain(max(song.peaks))
        encoding.write({track.name: track.path}, [target], gain, read_tags(song.source))

    return _made_once(song, track.path.with_suffix(f".{suffix}"), write)


def remix(song: Song, levels: Sequence[float], suffix: str = "wav") -> Path:
    """Write the mix of all tracks at given levels, without clipping.

    Args:
        song: The song.
        levels: Linear gain of each track, 0 to ``MAX_LEVEL``.
        suffix: Format, one of ``FORMATS``; WAV has 24 bits.

    Returns:
        The file, in a folder of its own that the caller deletes.

    Raises:
        DataError: The number of levels, a value or the format is invalid.
    """
    if len(levels) != len(song.tracks) or not all(0 <= x <= MAX_LEVEL for x in levels):
        raise DataError(
            f"levels are {', '.join(map(str, levels))}: give {len(song.tracks)} numbers from 0 to "
            f"{MAX_LEVEL:g}, one per track"
        )
    folder = Path(tempfile.mkdtemp(dir=song.folder))
    try:
        _mix(song, levels, folder, Encoding(suffix, bits=24 if suffix == "wav" else None))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / f"remix.{suffix}"


def _mix(song: Song, levels: Sequence[float], folder: Path, encoding: Encoding) -> None:
    size, tags = (song.sample_rate, song.channels), read_tags(song.source)
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


def archive(song: Song, model: str, suffix: str = "wav") -> Path:
    """Pack a model's stems in a format into a zip file, if not done before."""
    files = {
        track.name: stem(song, number, suffix)
        for number, track in enumerate(song.tracks)
        if track.model == model
    }

    def write(target: Path) -> None:
        # Samples hardly compress further, and storing is faster.
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
            for name, path in files.items():
                file.write(path, f"{song.title}/{name}.{suffix}")

    return _made_once(song, _folder(song, model).with_suffix(f".{suffix}.zip"), write)


def stem_mp4(song: Song, model: str) -> Path:
    """Encode the mixture and a model's stems as a stem.mp4, if not done before.

    Raises:
        FFmpegMissingError: ffmpeg is not installed.
        DataError: ffmpeg failed.
    """
    encoding = Encoding("stem.mp4")

    def write(target: Path) -> None:
        tracks = [song.tracks[0], *song.stems(model)]
        peaks = dict(zip((track.path for track in song.tracks), song.peaks, strict=True))
        gain = encoding.gain(max(peaks[track.path] for track in tracks))
        sources = {track.name: track.path for track in tracks}
        encoding.write(sources, [target], gain, read_tags(song.source))

    return _made_once(song, _folder(song, model).with_suffix(".stem.mp4"), write)


def _folder(song: Song, model: str) -> Path:
    return song.stems(model)[0].path.parent


def _made_once(song: Song, path: Path, write: Callable[[Path], None]) -> Path:
    with song.lock:
        if not path.is_file():
            unfinished = path.with_name(f".unfinished-{path.name}")
            try:
                write(unfinished)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
    return path
