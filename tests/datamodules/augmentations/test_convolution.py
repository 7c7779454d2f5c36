"""Convolution by FFT, and impulse responses from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.augmentations.convolution import (
    convolve,
    recorded_response,
    scale_to_unit_energy,
    trim_to_onset,
)
from datamodules.augmentations.recordings import Recordings
from datamodules.errors import DataError

RATE = 44100


@pytest.mark.parametrize(("samples", "length"), [(1, 1), (7, 20), (1000, 1), (1000, 333)])
def test_convolve_equals_direct_convolution(samples: int, length: int) -> None:
    random = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 3, samples, generator=random, dtype=torch.float64)
    responses = torch.randn(2, 3, length, generator=random, dtype=torch.float64)
    found = convolve(waveforms, responses)
    for place in np.ndindex(2, 3):
        direct = np.convolve(waveforms[place], responses[place])[:samples]
        assert np.abs(found[place].numpy() - direct).max() < 1e-12
    single = convolve(waveforms.float(), responses.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), found, atol=1e-4)


def test_responses_are_trimmed_to_the_direct_sound() -> None:
    response = np.zeros((2, 50), np.float32)
    response[0, 10:14] = [0.05, 0.2, -1, 0.5]
    response[1, 12] = 0.3
    assert trim_to_onset(response).tolist() == response[:, 11:].tolist()
    scaled = scale_to_unit_energy(response)
    assert np.square(scaled).sum() == pytest.approx(2)
    assert np.allclose(scaled / response.max(), response * scaled.max() / response.max() ** 2)


def test_response_with_another_rate_and_number_of_channels(tmp_path: Path) -> None:
    """The decay time in seconds is preserved, and each file is read once."""
    time = np.arange(4800) / 48000
    decay = np.exp(-time / 0.01) * np.random.default_rng(0).standard_normal(4800)
    soundfile.write(tmp_path / "a.wav", 0.1 * decay, 48000, subtype="FLOAT")
    found = recorded_response(tmp_path / "a.wav", 48000, RATE, 2)
    assert found.shape[0] == 2
    assert torch.equal(found[0], found[1])
    assert float(found.square().sum()) == pytest.approx(2, rel=1e-5)
    early = found[0, : round(0.01 * RATE)].square().sum()
    assert float(early) == pytest.approx(1 - np.exp(-2), abs=0.05)
    assert recorded_response(tmp_path / "a.wav", 48000, RATE, 2) is found
    assert Recordings(tmp_path, "impulse responses").longest_samples(RATE) == 4410


def test_invalid_responses_are_refused(tmp_path: Path) -> None:
    faulty = np.zeros(10)
    faulty[3] = np.nan
    soundfile.write(tmp_path / "nan.wav", faulty, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"nan\.wav: holds NaN or infinity"):
        recorded_response(tmp_path / "nan.wav", RATE, RATE, 1)
    soundfile.write(tmp_path / "silent.wav", np.zeros(10), RATE)
    with pytest.raises(DataError, match=r"silent\.wav: is silent"):
        recorded_response(tmp_path / "silent.wav", RATE, RATE, 1)
