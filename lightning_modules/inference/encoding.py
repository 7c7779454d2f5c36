"""Formats of stems: WAV, FLAC, ALAC, MP3, Opus and MUSDB18's ``.stem.mp4``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import soundfile

from datamodules.errors import DataError
from datamodules.files.covers import Cover, add_flac_picture, ogg_picture
from datamodules.files.ffmpeg import require_encoder
from datamodules.files.info import Audio, AudioInfo
from datamodules.files.writing import EncoderError, writing
from lightning_modules.inference.stem_box import DJ_STEMS, add_stem_box

CLIPPING = ("rescale", "clamp")
MIXTURE = "mixture"
_FLOAT_BITS = 32
_OPUS_RATE = 48000
_OPUS_KBPS = 256  # at most, for each channel
_MANY_CHANNELS = 1024


class _Format(NamedTuple):
    """A file format.

    Attributes:
        suffix: Of the file's name.
        depths: Bits per sample -> soundfile's subtype, or ffmpeg's sample format; the first is the
            default. Empty for formats with loss.
        channels: Highest number of channels.
        compression: Size relative to the nominal bits, at least: silence compresses well.
        codec: Encoder of ffmpeg; by default soundfile writes the format.
        container: Format of ffmpeg.
        rates: All that it supports, Hz, by default any; ffmpeg would resample others without a
            word.
        has_cover: Whether it holds a picture.
    """

    suffix: str
    depths: Mapping[int, str] = MappingProxyType({})
    channels: int = 8
    compression: float = 0.1
    codec: str = ""
    container: str = ""
    rates: Sequence[int] = ()
    has_cover: bool = True


_ALL = {
    "wav": _Format(
        "wav", {32: "FLOAT", 24: "PCM_24", 16: "PCM_16"}, _MANY_CHANNELS, 1.0, has_cover=False
    ),
    "flac": _Format("flac", {24: "PCM_24", 16: "PCM_16"}, compression=0.2),
    "alac": _Format("m4a", {24: "s32p", 16: "s16p"}, 2, 0.2, "alac", "ipod"),
    "mp3": _Format(
        "mp3", {}, 2, 0.9, "libmp3lame", "mp3",
        (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ),
    "opus": _Format("opus", {}, codec="libopus", container="opus"),
    "stem.mp4": _Format(
        "stem.mp4", {}, codec="aac", container="mp4",
        rates=(7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200,
               96000),
    ),
}  # fmt: skip
FORMATS = tuple(_ALL)
# Highest peak of lossy formats: leaves room for overshoots of decoders.
_CEILING = 0.98
_BLOCK = 2**18
_FRONT = "comment=Cover (front)"
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
            for FLAC and ALAC.
        bitrate_kbps: Kilobits per second of MP3 and Opus, or of each stream of ``stem.mp4``.
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
        depths = self._format.depths
        if self.bits is not None and self.bits not in depths:
            expected = " or ".join(map(str, sorted(depths))) or "no bits but a bitrate"
            raise DataError(f"bits is {self.bits} with {self.format}: give {expected}")
        if not 32 <= self.bitrate_kbps <= 320:
            raise DataError(f"bitrate is {self.bitrate_kbps} kbit/s: give one from 32 to 320")
        if self._format.codec:
            require_encoder(self._format.codec, f"Writing {self.format}")

    @property
    def _format(self) -> _Format:
        return _ALL[self.format]

    @property
    def suffix(self) -> str:
        """Suffix of the files."""
        return self._format.suffix

    @property
    def has_cover(self) -> bool:
        """Whether the files can hold a picture."""
        return self._format.has_cover

    @property
    def _depth(self) -> int | None:
        """Bits per sample; None in formats with loss."""
        return self.bits or next(iter(self._format.depths), None)

    @property
    def is_one_file(self) -> bool:
        """Whether all stems of a song and the mixture share a file."""
        return self.format == "stem.mp4"

    def check(self, song: Path, info: AudioInfo) -> None:
        """Raise ``DataError`` if the format does not support a song's sample rate or channels."""
        rates = self._format.rates
        if rates and info.sample_rate not in rates:
            raise DataError(
                f"{song}: has {info.sample_rate} Hz, {self.format} supports "
                f"{', '.join(map(str, rates))}; choose --format wav or flac"
            )
        channels = self._format.channels
        if self.format == "opus" and self.bitrate_kbps > _OPUS_KBPS * info.channels:
            raise DataError(
                f"{song}: has {info.channels} channels, of which opus holds {_OPUS_KBPS} kbit/s "
                f"each; choose --bitrate {_OPUS_KBPS * info.channels}"
            )
        if info.channels > channels:
            raise DataError(
                f"{song}: has {info.channels} channels, {self.format} supports {channels}; choose "
                "--format wav"
            )

    def size(self, info: AudioInfo, stems: int) -> int:
        """Size of a song's files, at least, for a number of stems; bytes."""
        streams = stems + self.is_one_file
        bits_per_second = 1000 * self.bitrate_kbps
        if self._depth:
            bits_per_second = self._depth * info.channels * info.sample_rate
        seconds = info.samples / info.sample_rate
        return int(streams * seconds * bits_per_second / 8 * self._format.compression)

    def files(self, folder: Path, stems: Sequence[str]) -> list[Path]:
        """Return the files of a song's stems in its folder: one per stem, or one for all."""
        if self.is_one_file:
            return [folder / f"{folder.name}.{self.suffix}"]
        return [folder / f"{stem}.{self.suffix}" for stem in stems]

    @property
    def step(self) -> float:
        """Distance of two integers of the format in [-1, 1); 0 if it holds other numbers too."""
        bits = self._depth
        return 0.0 if bits in (None, _FLOAT_BITS) else 2.0 ** (1 - bits)

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
        cover: Cover | None = None,
    ) -> None:
        """Encode stems.

        Args:
            sources: Stem -> 32-bit float WAV.
            targets: Files as ``files`` names them, in any folder.
            gain: Factor applied to all samples, before clipping at full scale.
            tags: Title, artist and others, by soundfile's names.
            names: The targets as errors name them.
            cover: Picture of the song, for formats that hold one.

        Raises:
            DataError: A file could not be written, for instance because the disk is full.
        """
        names = names or targets
        if self.is_one_file:
            with writing(names[0], targets[0]):
                self._write_streams(sources, targets[0], gain, tags, cover)
            return
        for (stem, source), target, name in zip(sources.items(), targets, names, strict=True):
            titled = {**tags, "title": f"{tags['title']} ({stem})"} if "title" in tags else tags
            with writing(name, target):
                if self._format.codec:
                    self._encode([source], [], target, gain, titled, cover)
                else:
                    self._rewrite(source, target, gain, titled)
                    if cover and self.has_cover:
                        add_flac_picture(target, cover)

    def _rewrite(self, source: Path, target: Path, gain: float, tags: Mapping[str, str]) -> None:
        bits = self._depth
        assert bits is not None
        with soundfile.SoundFile(os.fsencode(source)) as old:
            # WAV is limited to 4 GiB, 3.4 hours of float stereo at 44.1 kHz.
            long = self.format == "wav" and old.frames * old.channels * bits // 8 >= 2**32 - 2**16
            container = "RF64" if long else self.format.upper()
            form = (old.samplerate, old.channels, self._format.depths[bits])
            with soundfile.SoundFile(os.fsencode(target), "w", *form, format=container) as new:
                for name, value in tags.items():
                    setattr(new, name, value)
                while len(block := old.read(_BLOCK, dtype="float32", always_2d=True)):
                    new.write(self.rounded(block * np.float32(gain)))  # libsndfile rounds down

    def _write_streams(
        self,
        sources: Mapping[str, Path],
        target: Path,
        gain: float,
        tags: Mapping[str, str],
        cover: Cover | None,
    ) -> None:
        known = [name for name in _STREAMS if name in sources]
        # A dictionary keeps the first place of each name.
        names = [*dict.fromkeys([*known, *sources])]
        streams: list[str] = []
        for number, name in enumerate(names):
            streams += [f"-metadata:s:a:{number}", f"title={name}"]
            # Ordinary players play the default stream: the mixture.
            streams += [f"-disposition:a:{number}", "default" if number == 0 else "0"]
        self._encode([sources[name] for name in names], streams, target, gain, tags, cover)
        if set(sources) == {MIXTURE, *DJ_STEMS}:
            add_stem_box(target)

    def _encode(
        self,
        sources: Sequence[Path],
        streams: list[str],
        target: Path,
        gain: float,
        tags: Mapping[str, str],
        cover: Cover | None,
    ) -> None:
        """Encode files as the streams of one, by ffmpeg."""
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y"]
        maps: list[str] = []
        for number, path in enumerate(sources):
            command += ["-i", f"file:{path}"]
            maps += ["-map", f"{number}:a"]
        with TemporaryDirectory(dir=target.parent) as folder:
            if cover and self.format == "opus":
                path = Path(folder, "cover.txt")
                path.write_text(f";FFMETADATA1\n{ogg_picture(cover)}\n")
                command += ["-f", "ffmetadata", "-i", f"file:{path}", "-map_metadata", "1"]
            elif cover:
                path = Path(folder, "cover")
                path.write_bytes(cover.content)
                command += ["-i", f"file:{path}"]
                maps += ["-map", f"{len(sources)}:v", "-c:v", "copy"]
                maps += ["-disposition:v", "attached_pic", "-metadata:s:v", _FRONT]
            command += [*maps, *streams, "-c:a", self._format.codec]
            # Clip here: float samples beyond full scale would wrap or ring in a decoder.
            command += ["-af", f"volume={gain!r},asoftclip=type=hard"]
            if self._depth:
                command += ["-sample_fmt", self._format.depths[self._depth]]
                command += ["-bits_per_raw_sample", str(self._depth)]
            else:
                command += ["-b:a", f"{self.bitrate_kbps}k"]
            if self.format == "opus":
                command += ["-ar", str(_OPUS_RATE)]  # decoders play it at this rate
            elif self.format == "mp3":
                command += ["-id3v2_version", "3"]  # what most programs read
            for name, value in tags.items():
                command += ["-metadata", f"{'track' if name == 'tracknumber' else name}={value}"]
            command += ["-f", self._format.container, f"file:{target}"]
            done = subprocess.run(command, capture_output=True, check=False)
        message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        # After some failed writes ffmpeg exits with 0.
        if done.returncode or "No space left" in message:
            raise EncoderError(message or f"ffmpeg exited with {done.returncode}")
