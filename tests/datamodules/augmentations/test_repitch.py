"""Changes of pitch, tempo and speed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from datamodules.augmentations.repitch import Repitch, Speed, frequency_ratios
from datamodules.randomness import generator

RATE = 44100


def tone(hertz: float, seconds: float = 2.0) -> Tensor:
    """A stereo tone, quieter on the right, shape (2, T)."""
    wave = torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)).double() / RATE)
    return torch.stack([0.5 * wave, 0.2 * wave]).float()


def pitch(waveform: Tensor) -> float:
    """Frequency of a tone, Hz, by the peak of a zero-padded spectrum."""
    windowed = waveform.double() * torch.hann_window(len(waveform), dtype=torch.float64)
    return float(torch.fft.rfft(windowed, 16 * RATE).abs().argmax()) / 16


@pytest.mark.parametrize(("semitones", "tempo"), [(2, 0), (-2, 12), (1, -12), (0, 7.5)])
def test_pitch_changes_by_semitones_and_length_by_tempo(semitones: int, tempo: float) -> None:
    stems = tone(880)[None, None]
    result = Repitch()(stems, torch.tensor([[[1.0, semitones, tempo]]]))[0, 0]
    end = min(1.0, 1 / (1 + tempo / 100)) * 2
    sounding = slice(round(0.1 * RATE), round((end - 0.1) * RATE))
    assert pitch(result[0, sounding]) == pytest.approx(880 * 2 ** (semitones / 12), abs=0.3)
    assert result[0, sounding].abs().max() == pytest.approx(0.5, abs=0.06)
    if tempo > 0:
        assert not result[:, round((end + 0.05) * RATE) :].any()
    # The panning is preserved.
    assert torch.allclose(result[1, sounding], 0.4 * result[0, sounding], atol=1e-3)


@pytest.mark.parametrize("tempo", [-12.0, 12.0])
@pytest.mark.parametrize("semitones", [-2, 0, 2])
def test_onsets_follow_the_tempo(tempo: float, semitones: int) -> None:
    stems = torch.zeros(1, 1, 1, 3 * RATE)
    for start in (0.5, 1.5, 2.3):
        burst = slice(round(start * RATE), round((start + 0.1) * RATE))
        stems[..., burst] = tone(1000, 0.1)[:1, : burst.stop - burst.start]
    result = Repitch()(stems, torch.tensor([[[1.0, semitones, tempo]]])).flatten()
    energy = result.square()
    for start in (0.5, 1.5, 2.3):
        centre = (start + 0.05) / (1 + tempo / 100)
        window = slice(round((centre - 0.15) * RATE), round((centre + 0.15) * RATE))
        times = torch.arange(len(energy))[window] / RATE
        found = (times * energy[window]).sum() / energy[window].sum()
        assert float(found) == pytest.approx(centre, abs=0.012)


def test_repitch_without_change_returns_the_stem() -> None:
    stems = torch.randn(1, 1, 2, 20_000, generator=torch.Generator().manual_seed(0))
    result = Repitch()(stems, torch.tensor([[[1.0, 0, 0]]]))
    assert torch.allclose(result, stems, atol=1e-5)


def test_repitch_has_the_distribution_of_demucs() -> None:
    repitch = Repitch(probability=1.0)
    drawn = np.stack([repitch.draw(generator(0, 2, 0, index), 4) for index in range(3000)])
    assert (drawn == drawn[:, :1]).all()  # the stems of an example together
    applied, semitones, tempo = drawn[:, 0].T
    assert (applied == 1).all()
    assert np.allclose(np.unique_counts(semitones).counts / 3000, 0.2, atol=0.03)
    assert tempo.min() == -12
    assert tempo.max() == 12
    assert abs(tempo.mean()) < 0.3
    assert tempo.std() == pytest.approx(5, abs=0.2)


def test_speed_is_resampling() -> None:
    waveform = torch.randn(1, 2, 2, 1000, generator=torch.Generator().manual_seed(0))
    result = Speed()(waveform, torch.tensor([[12.0, -12.0]]))
    faster = torchaudio.functional.resample(waveform[0, 0], 2, 1)
    assert torch.equal(result[0, 0, :, :500], faster)
    assert not result[0, 0, :, 500:].any()
    slower = torchaudio.functional.resample(waveform[0, 1], 1, 2)
    assert torch.equal(result[0, 1], slower[:, :1000])
    up = Speed()(tone(880)[None, None], torch.tensor([[1.5]]))[0, 0, 0]
    assert pitch(up[: round(1.8 * RATE)]) == pytest.approx(880 * 2 ** (1.5 / 12), abs=0.5)


def test_frequency_ratios_are_within_the_documented_cents() -> None:
    for intervals, largest in ((torch.arange(-2, 3), 0.11), (torch.linspace(-12, 12, 481), 9)):
        for pitch, semitones in zip(frequency_ratios(intervals), intervals.tolist(), strict=True):
            assert abs(1200 * math.log2(pitch) - 100 * semitones) < largest
