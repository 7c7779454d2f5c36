"""Formats of stems: WAV, FLAC, MP3 and MUSDB18's ``.stem.mp4``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from datamodules.errors import DataError
from datamodules.files.ffmpeg import require_ffmpeg
from datamodules.files.info import Audio, AudioInfo
from datamodules.files.writing import EncoderError, writing
from lightning_modules.inference.stem_box import DJ_STEMS, add_stem_box

FORMATS = ("wav", "flac", "mp3", "stem.mp4")
CLIPPING = ("rescale", "clamp")
MIXTURE = "mixture"

# Bits per sample -> soundfile's subtype; the first is the default.
_SUBTYPES = {
    "wav": {32: "FLOAT", 24: "PCM_24", 16: "PCM_16"},
    "flac": {24: "PCM_24", 16: "PCM_16"},
}
# All that a format supports, Hz; ffmpeg would resample others without a word.
_RATES = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "stem.mp4": (
        (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
    ),
}
_CHANNELS = {"flac": 8, "mp3": 2, "stem.mp4": 8}
# Size of the files relative to their nominal bits, at least: silence compresses well.
_COMPRESSION = {"wav": 1.0, "flac": 0.2, "mp3": 0.9, "stem.mp4": 0.1}
# Highest peak of lossy formats: leaves room for overshoots of decoders.
_CEILING = 0.98
_FLOAT_BITS = 32
_BLOCK = 2**18
# MUSDB18's order of streams; other sources follow in the model's order.
_STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Encoding:
    """File format of stems.

    32-bit float WAV holds any value, so that the stems add up to the mixture up to rounding. All
    other formats are limited to full scale, which estimates can exceed. ``rescale`` then scales
    all stems of a song by the same factor, which keeps their balance; ``clamp`` clips the peaks
    and keeps the level.

    Args:
        format: One of ``FORMATS``. ``stem.mp4`` is one file of AAC streams, first the mixture
            and then the stems, in the layout of MUSDB18 that musdb and stempeg read. With exactly
            the stems of MUSDB18 it is also a file of Native Instruments' Stems for DJ programs.
        bits: Bits per sample: 16, 24 or 32 (float, the default) for WAV, 16 or 24 (the default)
            for FLAC.
        bitrate_kbps: Kilobits per second of MP3, or of each stream of ``stem.mp4``.
        clipping: One of ``CLIPPING``.

    Raises:
        DataError: A value is invalid, or ffmpeg is needed and missing.
    """

    format: str = "wav"
    bits: int | None = None
    bitrate_kbps: int = 256
    clipping: str = "rescale"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("clipping", self.clipping, CLIPPING),
        ):
            if value not in known:
                raise DataError(f"{name} is {value!r}: give one of {', '.join(known)}")
        depths = _SUBTYPES.get(self.format, {})
        if self.bits is not None and self.bits not in depths:
            expected = " or ".join(map(str, sorted(depths))) or "no bits but a bitrate"
            raise DataError(f"bits is {self.bits} with {self.format}: give {expected}")
        if not 32 <= self.bitrate_kbps <= 320:
            raise DataError(f"bitrate is {self.bitrate_kbps} kbit/s: give one from 32 to 320")
        if not depths:
            require_ffmpeg(f"Writing {self.format}")

    @property
    def is_one_file(self) -> bool:
        """Whether all stems of a song and the mixture share a file."""
        return self.format == "stem.mp4"

    def check(self, song: Path, info: AudioInfo) -> None:
        """Raise ``DataError`` if the format does not support a song's sample rate or channels."""
        rates = _RATES.get(self.format)
        if rates and info.sample_rate not in rates:
            raise DataError(
                f"{song}: has {info.sample_rate} Hz, {self.format} supports "
                f"{', '.join(map(str, rates))}; choose --format wav or flac"
            )
        channels = _CHANNELS.get(self.format, info.channels)
        if info.channels > channels:
            raise DataError(
                f"{song}: has {info.channels} channels, {self.format} supports {channels}; choose "
                "--format wav"
            )

    def size(self, info: AudioInfo, stems: int) -> int:
        """Size of a song's files, at least, for a number of stems; bytes."""
        streams = stems + self.is_one_file
        depths = _SUBTYPES.get(self.format)
        bits_per_second = 1000 * self.bitrate_kbps
        if depths:
            bits = self.bits or next(iter(depths))
            bits_per_second = bits * info.channels * info.sample_rate
        seconds = info.samples / info.sample_rate
        return int(streams * seconds * bits_per_second / 8 * _COMPRESSION[self.format])

    def files(self, folder: Path, stems: Sequence[str]) -> list[Path]:
        """Return the files of a song's stems in its folder: one per stem, or one for all."""
        if self.is_one_file:
            return [folder / f"{folder.name}.{self.format}"]
        return [folder / f"{stem}.{self.format}" for stem in stems]

    @property
    def step(self) -> float:
        """Distance of two integers of the format in [-1, 1); 0 if it holds other numbers too."""
        depths = _SUBTYPES.get(self.format)
        bits = self.bits or next(iter(depths)) if depths else _FLOAT_BITS
        return 0.0 if bits == _FLOAT_BITS else 2.0 ** (1 - bits)

    def rounded(self, audio: Audio) -> Audio:
        """Round samples to what the format can hold, except for its range."""
        step = np.float32(self.step)
        return np.rint(audio / step) * step if step else audio

    def gain(self, peak: float) -> float:
        """Return the factor applied to all stems of a song, given their largest sample."""
        exact = self.format == "wav" and not self.step
        ceiling = 1 - self.step if self.step else _CEILING
        return 1.0 if exact or self.clipping == "clamp" or peak <= ceiling else ceiling / peak

    def write(
        self,
        sources: Mapping[str, Path],
        targets: Sequence[Path],
        gain: float,
        tags: Mapping[str, str],
        names: Sequence[Path] | None = None,
    ) -> None:
        """Encode stems.

        Args:
            sources: Stem -> 32-bit float WAV.
            targets: Files as ``files`` names them, in any folder.
            gain: Factor applied to all samples, before clipping at full scale.
            tags: Title, artist and others, by soundfile's names.
            names: The targets as errors name them.

        Raises:
            DataError: A file could not be written, for instance because the disk is full.
        """
        names = names or targets
        if self.is_one_file:
            with writing(names[0], targets[0]):
                self._write_streams(sources, targets[0], gain, tags)
            return
        for (stem, source), target, name in zip(sources.items(), targets, names, strict=True):
            titled = {**tags, "title": f"{tags['title']} ({stem})"} if "title" in tags else tags
            with writing(name, target):
                if self.format == "mp3":
                    self._encode(_input(source), [], target, gain, titled, "libmp3lame")
                else:
                    self._rewrite(source, target, gain, titled)

    def _rewrite(self, source: Path, target: Path, gain: float, tags: Mapping[str, str]) -> None:
        depths = _SUBTYPES[self.format]
        bits = self.bits or next(iter(depths))
        with soundfile.SoundFile(os.fsencode(source)) as old:
            # WAV is limited to 4 GiB, 3.4 hours of float stereo at 44.1 kHz.
            long = self.format == "wav" and old.frames * old.channels * bits // 8 >= 2**32 - 2**16
            container = "RF64" if long else self.format.upper()
            form = (old.samplerate, old.channels, depths[bits])
            with soundfile.SoundFile(os.fsencode(target), "w", *form, format=container) as new:
                for name, value in tags.items():
                    setattr(new, name, value)
                while len(block := old.read(_BLOCK, dtype="float32", always_2d=True)):
                    new.write(self.rounded(block * np.float32(gain)))  # libsndfile rounds down

    def _write_streams(
        self, sources: Mapping[str, Path], target: Path, gain: float, tags: Mapping[str, str]
    ) -> None:
        known = [name for name in _STREAMS if name in sources]
        inputs: list[str] = []
        streams: list[str] = []
        # A dictionary keeps the first place of each name.
        for number, name in enumerate(dict.fromkeys([*known, *sources])):
            inputs += _input(sources[name])
            streams += ["-map", f"{number}:a", f"-metadata:s:a:{number}", f"title={name}"]
            # Ordinary players play the default stream: the mixture.
            streams += [f"-disposition:a:{number}", "default" if number == 0 else "0"]
        self._encode(inputs, streams, target, gain, tags, "aac")
        if set(sources) == {MIXTURE, *DJ_STEMS}:
            add_stem_box(target)

    def _encode(
        self,
        inputs: list[str],
        streams: list[str],
        target: Path,
        gain: float,
        tags: Mapping[str, str],
        codec: str,
    ) -> None:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *inputs, *streams]
        # Clip here: float samples beyond full scale would wrap or ring in a decoder.
        command += ["-af", f"volume={gain!r},asoftclip=type=hard"]
        command += ["-c:a", codec, "-b:a", f"{self.bitrate_kbps}k"]
        for name, value in tags.items():
            command += ["-metadata", f"{'track' if name == 'tracknumber' else name}={value}"]
        command += ["-f", "mp4" if self.is_one_file else "mp3", f"file:{target}"]
        done = subprocess.run(command, capture_output=True, check=False)
        message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        # After some failed writes ffmpeg exits with 0.
        if done.returncode or "No space left" in message:
            raise EncoderError(message or f"ffmpeg exited with {done.returncode}")


def _input(path: Path) -> list[str]:
    return ["-i", f"file:{path}"]
