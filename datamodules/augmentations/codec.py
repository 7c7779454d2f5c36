"""Augmentation by lossy codecs: encoding and decoding as MP3 or Ogg Vorbis."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from datamodules.augmentations.base import Parameters, Probability, StemAugmentation, checked_range
from datamodules.files.audio import Audio

_FORMATS = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}
_MP3_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Lowest sample rate -> bit rates of libsndfile's compression levels 0 and 1, linear in between
# (MPEG 1, 2 and 2.5).
_MP3_KBPS = {32000: (320.0, 32.0), 16000: (160.0, 8.0), 0: (64.0, 8.0)}
# Nominal bit rates in libvorbis' header for stereo at 44.1 kHz, at qualities 0, 0.1, ..., 1;
# libsndfile's compression level is 1 - quality.
_OGG_KBPS = (64.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 500.0)
# Delay that the decoder does not remove where a frame has no space for LAME's tag (about 64 kbit/s
# and below): 576 samples of the encoder and 529 of the decoder (LAME's FAQ).
_MP3_DELAY_SAMPLES = 576 + 529


class Codec(StemAugmentation):
    """Encode a stem as MP3 or Ogg Vorbis and decode it again, without delay.

    Runs on the CPU, whatever the device of the stems, in libsndfile with LAME, mpg123 and
    libvorbis and as many threads as there are cores: by far the slowest augmentation. Mono and
    stereo only. MP3 needs a sample rate of 8, 11.025, 12, 16, 22.05, 24, 32, 44.1 or 48 kHz. The
    result depends on the version of libsndfile.

    Args:
        formats: ``mp3``, ``ogg`` or both with equal probability.
        lowest_kbps: Smallest bit rate, kbit/s. MP3 uses the nearest available one; Ogg the quality
            with this nominal rate for stereo at 44.1 kHz.
        highest_kbps: Largest bit rate, kbit/s.
        probability: Probability per stem, one number or one per stem.
    """

    neutral = math.inf

    def __init__(
        self,
        formats: Sequence[str] = ("mp3", "ogg"),
        lowest_kbps: float = 64.0,
        highest_kbps: float = 256.0,
        probability: Probability = 0.1,
    ) -> None:
        super().__init__(probability)
        self.range_kbps = checked_range("kbps", lowest_kbps, highest_kbps, above=0)
        if not formats or set(formats) - set(_FORMATS):
            raise ValueError(f"formats is {list(formats)}: give one or more of mp3, ogg")
        self.formats = list(formats)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a bit rate in kbit/s and the index of a format for each stem."""
        rates = random.uniform(*self.range_kbps, stems)
        return np.column_stack([rates, random.integers(len(self.formats), size=stems)])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Encode and decode each stem."""
        channels = waveforms.shape[1]
        if channels > 2:
            raise ValueError(
                f"Codec takes one or two channels, these stems have {channels}: remove it from "
                "augmentations, or set audio_channels to 2"
            )
        if "mp3" in self.formats and self.sample_rate not in _MP3_SAMPLE_RATES:
            raise ValueError(
                f"Codec cannot encode MP3 at {self.sample_rate} Hz: set its formats to [ogg], or "
                f"sample_rate to one of {', '.join(map(str, _MP3_SAMPLE_RATES))}"
            )

        def decode(place: int) -> Audio:
            kbps, number = parameters[place].tolist()
            return round_trip(audio[place], self.sample_rate, self.formats[int(number)], kbps)

        audio = waveforms.cpu().numpy()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            decoded = np.stack(list(threads.map(decode, range(len(audio)))))
        return torch.from_numpy(decoded).to(waveforms)


def round_trip(audio: Audio, sample_rate: int, file_format: str, kbps: float) -> Audio:
    """Encode and decode a waveform.

    Args:
        audio: Shape (C, T).
        sample_rate: Sample rate, Hz.
        file_format: ``mp3`` or ``ogg``.
        kbps: Bit rate, kbit/s.

    Returns:
        Shape (C, T), aligned with the input.
    """
    if file_format == "mp3":
        highest, lowest = next(
            rates for from_rate, rates in _MP3_KBPS.items() if sample_rate >= from_rate
        )
        # LAME refuses 1.
        settings: dict[str, Any] = {
            "compression_level": min(max((highest - kbps) / (highest - lowest), 0.0), 0.99),
            "bitrate_mode": "CONSTANT",
        }
    else:
        quality = np.interp(kbps, _OGG_KBPS, np.linspace(0, 1, len(_OGG_KBPS)))
        settings = {"compression_level": 1 - float(quality)}
    settings |= {"format": file_format.upper(), "subtype": _FORMATS[file_format]}
    file = io.BytesIO()
    soundfile.write(file, audio.T, sample_rate, **settings)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    samples = audio.shape[-1]
    # A decoder that removes the delay returns the length of the input.
    delay = _MP3_DELAY_SAMPLES if len(decoded) != samples and file_format == "mp3" else 0
    result = np.zeros_like(audio)
    kept = decoded[delay : delay + samples].T
    result[:, : kept.shape[-1]] = kept
    return result
