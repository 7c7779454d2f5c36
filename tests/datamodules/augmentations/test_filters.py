"""Equalisers, shelves, band-stop and reverberation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import torchaudio
from torch import Tensor

from datamodules.augmentations.base import StemAugmentation
from datamodules.augmentations.filters import (
    BandStop,
    HighShelf,
    LowShelf,
    PeakingEqualizer,
    Reverb,
)
from datamodules.errors import DataError
from datamodules.randomness import generator

TEST_DATA = os.environ.get("STEMLAB_TEST_DATA")
RATE = 44100


def noise(*shape: int) -> Tensor:
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def response_db(
    augmentation: StemAugmentation, row: list[float], hertz: list[float]
) -> list[float]:
    """Gain at some frequencies, measured on an impulse of two seconds."""
    impulse = torch.zeros(1, 1, 1, 2 * RATE)
    impulse[..., 0] = 1
    spectrum = torch.fft.rfft(augmentation(impulse, torch.tensor([[row]])).flatten().double())
    return [float(20 * spectrum[round(2 * frequency)].abs().log10()) for frequency in hertz]


# ------------------------------------------------------------------------ biquads


@pytest.mark.parametrize("gain", [-9.0, 6.0])
def test_biquads_have_the_requested_gains(gain: float) -> None:
    found = response_db(PeakingEqualizer(), [gain, 1000.0, 2.0], [1000, 10, 22000])
    assert found == pytest.approx([gain, 0, 0], abs=0.01)
    # Quality: centre frequency divided by the bandwidth between the points of half the gain.
    edge = 1000 * 2 ** (np.arcsinh(1 / (2 * 2.0)) / np.log(2))
    assert response_db(PeakingEqualizer(), [gain, 1000.0, 2.0], [edge]) == pytest.approx(
        [gain / 2], abs=0.05
    )
    quality = np.sqrt(0.5)
    found = response_db(LowShelf(), [gain, 300.0, quality], [1, 300, 20000])
    assert found == pytest.approx([gain, gain / 2, 0], abs=0.01)
    found = response_db(HighShelf(), [gain, 4000.0, quality], [10, 4000, 22050])
    assert found == pytest.approx([0, gain / 2, gain], abs=0.01)


def test_biquads_equal_torchaudio() -> None:
    stems = noise(2, 2, 2, 4000)
    rows = [[6.0, 500.0, 0.9], [-4.0, 80.0, 3.0], [0.5, 9000.0, 0.707], [-12.0, 2000.0, 0.707]]
    parameters = torch.tensor(rows).view(2, 2, 3)
    functional = torchaudio.functional
    peers: list[tuple[StemAugmentation, Callable[..., Tensor]]] = [
        (PeakingEqualizer(), lambda x, g, f, q: functional.equalizer_biquad(x, RATE, f, g, q)),
        (LowShelf(), lambda x, g, f, q: functional.bass_biquad(x, RATE, g, f, q)),
        (HighShelf(), lambda x, g, f, q: functional.treble_biquad(x, RATE, g, f, q)),
    ]
    for augmentation, peer in peers:
        result = augmentation(stems, parameters).flatten(0, 1)
        for waveform, row, found in zip(stems.flatten(0, 1), rows, result, strict=True):
            wanted = peer(waveform.double(), *row).float()
            assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", [PeakingEqualizer, LowShelf, HighShelf])
def test_zero_gain_returns_the_input(kind: type[PeakingEqualizer]) -> None:
    stems = noise(1, 4, 2, 1000)
    equalizer = kind(0.0, 0.0, probability=1.0)
    drawn = torch.from_numpy(equalizer.draw(generator(0, 2, 0, 0), 4))[None]
    assert torch.equal(equalizer(stems, drawn), stems)
    assert drawn.shape == (1, 4, 3)


def test_low_frequency_filters_add_no_noise() -> None:
    stems = noise(1, 1, 1, RATE)
    result = PeakingEqualizer()(stems, torch.tensor([[[12.0, 25.0, 4.0]]]))
    a = 10 ** (12 / 40)
    angular = 2 * np.pi * 25 / RATE
    alpha = np.sin(angular) / 8
    b = [1 + alpha * a, -2 * np.cos(angular), 1 - alpha * a]
    wanted = scipy.signal.lfilter(
        b, [1 + alpha / a, b[1], 1 - alpha / a], stems.flatten().double().numpy()
    )
    assert np.abs(result.flatten().numpy() - wanted).max() < 1e-7


def test_frequencies_stay_below_the_nyquist_frequency() -> None:
    for augmentation in (PeakingEqualizer(probability=1.0), HighShelf(probability=1.0)):
        augmentation.sample_rate = 8000
        drawn = augmentation.draw(generator(0, 2, 0, 0), 400)
        assert drawn[:, 1].max() == 3600
        assert np.isfinite(augmentation.alter(noise(400, 1, 50), torch.from_numpy(drawn))).all()
    stop = BandStop(highest_octaves=2.0, probability=1.0)
    stop.sample_rate = 8000
    widths, centres = stop.draw(generator(0, 2, 0, 0), 4000).T
    assert (centres * 2 ** (widths / 2)).max() == pytest.approx(3600)


def test_draws_are_uniform_in_decibels_and_octaves() -> None:
    drawn = PeakingEqualizer(-6.0, 2.0, 100.0, 6400.0, 1.0, 1.0, probability=1.0).draw(
        generator(0, 2, 0, 0), 10_000
    )
    assert drawn[:, 0].mean() == pytest.approx(-2, abs=0.1)
    assert np.log2(drawn[:, 1] / 100).mean() == pytest.approx(3, abs=0.1)
    assert drawn[:, 1].min() >= 99.9
    assert drawn[:, 1].max() <= 6400.1
    assert np.allclose(drawn[:, 2], 1)


# ---------------------------------------------------------------------- band-stop


def test_band_stop_removes_the_band() -> None:
    found = response_db(BandStop(), [1.0, 1000.0], [1000, 1000 / 2**0.5, 1000 * 2**0.5])
    assert found[0] < -60
    assert found[1:] == pytest.approx([-3.01, -3.01], abs=0.05)
    assert response_db(BandStop(), [1.0, 1000.0], [300, 3000]) == pytest.approx([0, 0], abs=0.01)
    assert max(response_db(BandStop(), [1.0, 1000.0], [900, 950, 1050, 1100])) < -40


def test_band_stop_equals_scipy() -> None:
    stems = noise(1, 2, 2, 3000)
    result = BandStop()(stems, torch.tensor([[[0.5, 150.0], [0.0, 0.0]]]))
    edges = [150 * 2**-0.25, 150 * 2**0.25]
    sections = scipy.signal.butter(4, edges, "bandstop", output="sos", fs=RATE)
    wanted = scipy.signal.sosfilt(sections, stems[0, 0].double().numpy())
    assert np.abs(result[0, 0].numpy() - wanted).max() < 1e-6
    assert torch.equal(result[0, 1], stems[0, 1])


# ------------------------------------------------------------------------- reverb


def test_reverb_adds_the_trimmed_and_normalised_response(tmp_path: Path) -> None:
    # 0.01 is more than 20 dB below the peak, so the direct sound is the third sample.
    soundfile.write(tmp_path / "a.wav", np.array([0, 0.01, 0.5, 0.25]), RATE, subtype="FLOAT")
    left_right = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
    soundfile.write(tmp_path / "b.wav", left_right, RATE, subtype="FLOAT")
    stems = torch.zeros(1, 3, 2, 5)
    stems[..., 0, 0], stems[..., 1, 1] = 1.0, 0.5
    parameters = torch.tensor([[[-20.0, 0], [0.0, 1], [-torch.inf, 0]]])
    result = Reverb(str(tmp_path))(stems, parameters)
    first = np.array([0.5, 0.25]) / np.sqrt(0.5**2 + 0.25**2)
    wanted = stems.clone()
    wanted[0, 0, 0, :2] += torch.tensor(0.1 * first).float()
    wanted[0, 0, 1, 1:3] += torch.tensor(0.05 * first).float()
    # The mean of the energies 0.09 and 0.16 is 0.125.
    wanted[0, 1, 0, 0] += 0.3 / 0.125**0.5
    wanted[0, 1, 1, 2] += 0.5 * 0.4 / 0.125**0.5
    assert torch.allclose(result, wanted, atol=1e-6)
    assert torch.equal(result[0, 2], stems[0, 2])


def test_reverb_has_its_level_and_is_cut_at_the_end(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tail = np.exp(-np.arange(3000) / 500)[:, None] * random.standard_normal((3000, 2))
    soundfile.write(tmp_path / "a.wav", 0.1 * tail, RATE, subtype="FLOAT")
    stems = noise(1, 1, 2, 2 * RATE)
    wet = Reverb(str(tmp_path))(stems, torch.tensor([[[-12.0, 0]]])) - stems
    level = 10 * torch.log10(wet.square().mean() / stems.square().mean())
    assert float(level) == pytest.approx(-12, abs=0.3)
    short = Reverb(str(tmp_path))(stems[..., :100], torch.tensor([[[-12.0, 0]]]))
    assert torch.allclose(short, (stems + wet)[..., :100], atol=1e-6)


def test_resampled_response_is_not_delayed(tmp_path: Path) -> None:
    impulse = np.zeros(1000)
    impulse[480] = 0.9
    soundfile.write(tmp_path / "a.wav", impulse, 48000)
    stems = torch.zeros(1, 1, 2, 2000)
    stems[..., 1000] = 1
    wet = Reverb(str(tmp_path))(stems, torch.tensor([[[-6.0, 0]]])) - stems
    assert wet.abs().argmax(-1).flatten().tolist() == [1000, 1000]
    assert wet[0, 0, 0].square().sum() == pytest.approx(10**-0.6, rel=1e-4)


def test_mono_stem_uses_the_average_of_a_stereo_response(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.0], [0.0, 0.5]]), RATE)
    stems = torch.tensor([1.0, 0, 0]).view(1, 1, 1, 3)
    result = Reverb(str(tmp_path))(stems, torch.tensor([[[0.0, 0]]])).flatten()
    assert torch.allclose(result, torch.tensor([1 + 0.5**0.5, 0.5**0.5, 0]), atol=1e-6)


def test_missing_and_invalid_responses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: does not exist.*impulse responses"):
        Reverb(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="contains no impulse responses"):
        Reverb(str(tmp_path))
    soundfile.write(tmp_path / "a.wav", np.zeros(10), RATE)
    with pytest.raises(DataError, match=r"a\.wav: is silent"):
        Reverb(str(tmp_path))(noise(1, 1, 2, 50), torch.tensor([[[0.0, 0]]]))


@pytest.mark.skipif(not TEST_DATA, reason="STEMLAB_TEST_DATA is not set")
def test_real_impulse_responses() -> None:
    reverb = Reverb(f"{TEST_DATA}/impulse_responses", -10.0, -10.0)
    assert len(reverb.responses) == 6
    impulse = torch.zeros(1, 1, 2, 8 * RATE)
    impulse[..., RATE] = 1
    for number in range(6):
        wet = reverb(impulse, torch.tensor([[[-10.0, number]]])) - impulse
        assert float(wet.square().sum() / 2) == pytest.approx(0.1, rel=0.02)
        # Nothing before the dry signal; the plate's onset follows within a millisecond.
        levels = wet.abs().amax((0, 1, 2))
        assert levels[:RATE].max() < 1e-6
        assert levels[RATE : RATE + RATE // 1000].max() > 0.03 * levels.max()
