"""Round trips through MP3 and Ogg Vorbis."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from datamodules.augmentations.codec import Codec, round_trip
from datamodules.files.audio import Audio

TEST_DATA = os.environ.get("STEMLAB_TEST_DATA")


def music(sample_rate: int, channels: int = 2, seconds: float = 1.5) -> Audio:
    """Low-pass noise, which codecs preserve, shape (channels, T)."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((channels, round(seconds * sample_rate)))
    low = scipy.signal.sosfilt(scipy.signal.butter(4, 0.15, output="sos"), noise)
    return np.asarray(0.3 * low, np.float32)


def lag(result: Audio, original: Audio) -> int:
    """Delay of the result in samples, by cross-correlation."""
    correlation = scipy.signal.correlate(result[0], original[0], "full")
    return int(np.argmax(correlation)) - (len(original[0]) - 1)


def snr_db(original: Audio, result: Audio) -> float:
    return float(10 * np.log10(np.square(original).sum() / np.square(result - original).sum()))


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("file_format", ["mp3", "ogg"])
def test_result_is_aligned_at_any_rate(sample_rate: int, channels: int, file_format: str) -> None:
    original = music(sample_rate, channels)
    for kbps in (16, 64, 320):  # at the lowest, a frame has no space for LAME's tag
        result = round_trip(original, sample_rate, file_format, kbps)
        assert result.shape == original.shape
        assert result.dtype == np.float32
        assert lag(result, original) == 0
        assert not np.array_equal(result, original)


@pytest.mark.parametrize("file_format", ["mp3", "ogg"])
def test_higher_bit_rates_are_closer_to_the_original(file_format: str) -> None:
    original = np.random.default_rng(0).standard_normal((2, 44100)).astype(np.float32) * 0.1
    ratios = [
        snr_db(original, round_trip(original, 44100, file_format, kbps))
        for kbps in (64, 128, 192, 320)
    ]
    assert ratios == sorted(ratios)
    assert ratios[-1] > ratios[0] + 3


@pytest.mark.parametrize("file_format", ["mp3", "ogg"])
def test_samples_above_full_scale_are_not_clipped(file_format: str) -> None:
    original = music(44100)
    original *= 3 / np.abs(original).max()
    assert snr_db(original, round_trip(original, 44100, file_format, 320)) > 15


def test_drawn_bit_rate_and_format_are_used() -> None:
    stems = torch.from_numpy(music(44100)).expand(1, 3, -1, -1)
    parameters = torch.tensor([[[64.0, 0], [192.0, 1], [torch.inf, 0]]])
    result = Codec()(stems, parameters)
    assert np.array_equal(result[0, 0], round_trip(stems[0, 0].numpy(), 44100, "mp3", 64))
    assert np.array_equal(result[0, 1], round_trip(stems[0, 1].numpy(), 44100, "ogg", 192))
    assert torch.equal(result[0, 2], stems[0, 2])


def test_unsupported_channels_and_rates_are_refused() -> None:
    codec = Codec()
    with pytest.raises(ValueError, match=r"one or two channels.*have 3"):
        codec(torch.zeros(1, 1, 3, 100), torch.tensor([[[128.0, 0]]]))
    codec.sample_rate = 22000
    with pytest.raises(ValueError, match=r"MP3 at 22000 Hz.*\[ogg\]"):
        codec(torch.zeros(1, 1, 2, 100), torch.tensor([[[128.0, 1]]]))
    ogg = Codec(["ogg"])
    ogg.sample_rate = 22000
    assert not ogg(torch.zeros(1, 1, 2, 100), torch.tensor([[[128.0, 0]]])).any()


@pytest.mark.skipif(not TEST_DATA, reason="STEMLAB_TEST_DATA is not set")
@pytest.mark.parametrize("file_format", ["mp3", "ogg"])
def test_real_music_is_not_delayed(file_format: str) -> None:
    folder = sorted(os.scandir(f"{TEST_DATA}/music/test"), key=lambda entry: entry.name)[0].path
    audio, rate = soundfile.read(f"{folder}/mixture.flac", 5 * 44100, 20 * 44100, dtype="float32")
    original = np.ascontiguousarray(audio.T)
    for kbps in (48, 128):
        result = round_trip(original, rate, file_format, kbps)
        assert lag(result, original) == 0
        assert snr_db(original, result) > 8
