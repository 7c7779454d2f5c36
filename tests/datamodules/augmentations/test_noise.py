"""Generated and recorded noise, and folders of recordings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import soundfile
import torch
from torch import Tensor

from datamodules.augmentations.noise import (
    ColouredNoise,
    GaussianNoise,
    RecordedNoise,
    normal,
    philox,
)
from datamodules.augmentations.recordings import Recordings, match_channels
from datamodules.errors import DataError
from datamodules.randomness import generator

TEST_DATA = os.environ.get("STEMLAB_TEST_DATA")


def snr_db(clean: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (noisy - clean).square().sum()))


# Known answers of Random123 (its kat_vectors) for philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_equals_random123(counter: str, key: str, answer: str) -> None:
    def words(text: str) -> list[Tensor]:
        return [torch.tensor([int(word, 16)]) for word in text.split()]

    assert philox(words(counter), words(key)) == words(answer)


def test_normal_numbers_are_normal_and_depend_on_their_key_only() -> None:
    keys = torch.tensor([[0, 0], [1, 0], [0, 1], [2**24 - 1, 5]])
    numbers = normal(keys, 40_001)
    assert numbers.shape == (4, 40_001)
    assert torch.equal(normal(keys[2:3], 7), numbers[2:3, :7])
    for row in numbers:
        assert scipy.stats.kstest(row.numpy(), "norm").pvalue > 0.01
    correlations = np.corrcoef(numbers)
    assert np.abs(correlations - np.eye(4)).max() < 0.02
    successive = np.corrcoef(numbers[0, :-1], numbers[0, 1:])[0, 1]
    assert abs(successive) < 0.02


def test_gaussian_noise_has_the_requested_ratio() -> None:
    stems = torch.randn(1, 3, 2, 5000, generator=torch.Generator().manual_seed(0))
    parameters = torch.tensor([[[10.0, 1, 2], [33.0, 1, 2], [torch.inf, 1, 2]]])
    result = GaussianNoise()(stems, parameters)
    assert snr_db(stems[0, 0], result[0, 0]) == pytest.approx(10, abs=1e-3)
    assert snr_db(stems[0, 1], result[0, 1]) == pytest.approx(33, abs=1e-2)
    assert torch.equal(result[0, 2], stems[0, 2])
    # The exact values, different in each channel.
    wanted = normal(torch.tensor([[1, 2]]), 10_000).view(2, 5000)
    found = (result - stems)[0, 0]
    assert torch.allclose(found / found.std(), wanted / wanted.std(), atol=1e-3)
    keys = GaussianNoise().draw(generator(0, 2, 0, 0), 4)
    assert keys.shape == (4, 3)
    assert np.array_equal(keys[:, 1:], np.round(keys[:, 1:]))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_the_requested_spectrum(exponent: float) -> None:
    stems = torch.randn(2, 1, 2, 50_000, generator=torch.Generator().manual_seed(0))
    parameters = torch.tensor([[[5.0, exponent, 1, 2]], [[5.0, exponent, 3, 4]]])
    result = ColouredNoise()(stems, parameters)
    added = result - stems
    assert snr_db(stems[0], result[0]) == pytest.approx(5, abs=1e-3)
    # The power per octave rises by (1 - exponent) times 3 dB.
    power = torch.fft.rfft(added.double()).abs().square().mean((0, 1, 2))
    octaves = [10 * torch.log10(power[2**n : 2 ** (n + 1)].sum()) for n in range(7, 14)]
    slope = np.polyfit(range(7), octaves, 1)[0]
    assert slope == pytest.approx(10 * np.log10(2) * (1 - exponent), abs=0.15)
    assert float(added.mean()) == pytest.approx(0, abs=1e-5)
    # Channels and keys are uncorrelated.
    correlations = np.corrcoef(added.flatten(0, 2).diff().numpy())
    assert np.abs(correlations - np.eye(4)).max() < 0.05
    drawn = ColouredNoise(3.0, 4.0, 0.5, 0.75).draw(generator(0, 2, 0, 0), 4)
    assert ((drawn[:, :2] >= [3, 0.5]) & (drawn[:, :2] <= [4, 0.75])).all()


def test_long_coloured_noise_repeats_seamlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.augmentations.noise._LONGEST_PERIOD", 1024)
    stems = torch.ones(1, 1, 1, 5000)
    added = (ColouredNoise()(stems, torch.tensor([[[0.0, 1.0, 1, 2]]])) - stems).flatten()
    assert torch.equal(added[:1024], added[1024:2048])
    # A seam would be an outlier among the differences.
    assert added.diff()[1020:1028].abs().max() < 5 * added.diff().std()


# -------------------------------------------------------------------- recordings


def ramp(samples: int, channels: int = 1) -> npt.NDArray[np.float64]:
    """A different value in each sample and channel, exact in 16 bits."""
    signs = np.array([1.0, -1.0])[:channels]
    return np.asarray(np.arange(1, samples + 1)[:, None] * signs / 2**15)


def test_recorded_noise_is_the_recording_at_the_requested_ratio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", ramp(100, 2), 44100)
    soundfile.write(tmp_path / "a.wav", ramp(40), 44100)
    noise = RecordedNoise(str(tmp_path))
    stems = torch.full((1, 3, 2, 50), 0.5)
    # (ratio, recording, place): the middle of b; a, repeated from its middle.
    parameters = torch.tensor([[[20.0, 1, 0.5], [6.0, 0, 0.5], [torch.inf, 0, 0]]])
    added = noise(stems, parameters) - stems
    wanted = torch.from_numpy(ramp(100, 2)[25:75].T).float()
    assert torch.allclose(added[0, 0] / added[0, 0].std(), wanted / wanted.std(), atol=1e-4)
    assert snr_db(stems[0, 0], stems[0, 0] + added[0, 0]) == pytest.approx(20, abs=1e-3)
    looped = torch.from_numpy(np.concatenate([ramp(40)[20:], ramp(40)[:30]])[:, 0]).float()
    for channel in added[0, 1]:
        assert torch.allclose(channel / channel.std(), looped / looped.std(), atol=1e-4)
    assert not added[0, 2].any()


def test_silent_recording_adds_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 44100)
    stems = torch.ones(1, 1, 2, 50)
    result = RecordedNoise(str(tmp_path))(stems, torch.tensor([[[0.0, 0, 0]]]))
    assert torch.equal(result, stems)


def test_every_crop_of_a_recording_can_be_drawn(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", ramp(100), 44100)
    recordings = Recordings(tmp_path, "noise recordings")
    starts = {
        float(recordings.read_looped(0, place, 90, 44100, 1)[0, 0])
        for place in np.linspace(0, 1 - 2**-24, 100)
    }
    assert starts == set((np.arange(1, 12) / 2**15).tolist())


def test_recording_with_another_rate_is_resampled(tmp_path: Path) -> None:
    time = np.arange(24000) / 48000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 48000)
    found = Recordings(tmp_path, "tones").read_looped(0, 0.0, 20000, 44100, 1)[0]
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(20000) / 44100)
    assert len(found) == 20000
    assert np.abs(found - wanted)[100:-100].max() < 2e-3


def test_match_channels_averages_where_numbers_differ() -> None:
    stereo = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert match_channels(stereo, 1).tolist() == [[2, 3]]
    assert match_channels(stereo, 3).tolist() == [[2, 3]] * 3
    assert match_channels(stereo, 2) is stereo


def test_invalid_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: does not exist.*noise.*argument folder"):
        RecordedNoise(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: is a file, a folder"):
        RecordedNoise(str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"contains no noise recordings; put \.wav"):
        RecordedNoise(str(tmp_path))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"broken\.wav"):
        RecordedNoise(str(tmp_path))


@pytest.mark.skipif(not TEST_DATA, reason="STEMLAB_TEST_DATA is not set")
def test_real_noise() -> None:
    noise = RecordedNoise(f"{TEST_DATA}/noise", 10.0, 10.0, probability=1.0)
    assert len(noise.recordings) == 60
    stems = torch.randn(2, 4, 2, 44100, generator=torch.Generator().manual_seed(0))
    drawn = np.stack([noise.draw(generator(0, 2, 0, index), 4) for index in range(2)])
    result = noise(stems, torch.from_numpy(drawn))
    for clean, noisy in zip(stems.flatten(0, 1), result.flatten(0, 1), strict=True):
        assert snr_db(clean, noisy) == pytest.approx(10, abs=0.01)
