"""Energy in bands: of tones and of noise."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_modules.evaluation.bands import band_centres, band_energies


@pytest.mark.parametrize("per_octave", [1, 3])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_tone_is_in_its_band(rate: int, per_octave: int) -> None:
    centres = band_centres(rate, per_octave)
    assert centres[0] == 31.25
    assert 1000 in centres.round(6)
    half_band = 2 ** (0.5 / per_octave)
    assert centres[-1] / half_band < rate / 2 <= centres[-1] * half_band
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    energies = band_energies(np.stack([tone, -tone]), rate, per_octave)
    assert energies.shape == centres.shape
    band = int(np.argmin(np.abs(centres - 1000)))
    # During the fades, a tenth of the second, the mean of sin^4 is 3/8.
    assert energies[band] == pytest.approx(2 * 0.25 / 2 * rate * (1 - 0.1 * 5 / 8), rel=1e-3)
    assert np.delete(energies, band).max() < 1e-6 * energies[band]


def test_bands_sum_to_total_energy_above_the_lowest() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 441_001)).astype(np.float32)
    total = float(np.square(noise).sum()) * (1 - 0.01 * 5 / 8)
    lost = 31.25 / 2**0.5 / 22050
    assert band_energies(noise, 44100).sum() == pytest.approx(total * (1 - lost), rel=2e-3)
    energies = band_energies(noise, 44100, 3)
    # White noise rises by 3 dB per octave.
    assert np.polyfit(range(20), np.log2(energies[6:26]), 1)[0] == pytest.approx(1 / 3, abs=0.02)
    assert not band_energies(np.zeros((2, 1)), 44100).any()
