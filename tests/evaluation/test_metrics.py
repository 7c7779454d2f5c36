"""Metrics besides BSS Eval: values worked out by hand, torchmetrics, silence and NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from numpy.typing import NDArray
from torchmetrics.functional.audio import (
    scale_invariant_signal_distortion_ratio,
    signal_noise_ratio,
)

from lightning_modules.evaluation import metrics
from lightning_modules.evaluation.metrics import METRICS, measure

Signal = NDArray[Any]
RATE = 16000
DISTANCES = ("l1", "lsd", "l1_stft")


def noise(*shape: int, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).standard_normal(shape) / 8


def value(name: str, reference: Signal, estimate: Signal) -> float:
    return measure([name], reference, estimate, RATE)[name]


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio)


# ------------------------------------------------------------ ratios of energies


def test_snr_and_si_sdr_by_hand() -> None:
    # The error is 1 in the first 1000 samples, 0.5 in the other 1500.
    reference = np.full((2, 2500), 2.0)
    estimate = reference + 0.5
    estimate[:, :1000] = 3.0
    ratio = 2 * 2500 * 4 / (2 * (1000 + 1500 / 4))
    assert value("snr", reference, estimate) == pytest.approx(decibels(ratio), abs=1e-12)
    factor = (3 * 1000 + 2.5 * 1500) / (2 * 2500)
    residual = 1000 * (3 - 2 * factor) ** 2 + 1500 * (2.5 - 2 * factor) ** 2
    expected = decibels(2500 * (2 * factor) ** 2 / residual)
    assert value("si_sdr", reference, estimate) == pytest.approx(expected, abs=1e-9)


def test_snr_and_si_sdr_of_mono_equal_torchmetrics() -> None:
    reference = noise(1, 3210)
    estimate = 0.7 * reference + noise(1, 3210, seed=1) / 3
    pair = torch.from_numpy(estimate), torch.from_numpy(reference)
    for name, theirs in (
        ("si_sdr", scale_invariant_signal_distortion_ratio),
        ("snr", signal_noise_ratio),
    ):
        assert value(name, reference, estimate) == pytest.approx(theirs(*pair).item(), abs=1e-9)


def test_si_sdr_ignores_gain_but_not_channel_balance() -> None:
    reference = noise(2, 3000)
    estimate = reference + noise(2, 3000, seed=1) / 10
    for gain in (-3.0, 1e-3, 50.0):
        expected = pytest.approx(value("si_sdr", reference, estimate), abs=1e-6)
        assert value("si_sdr", reference, gain * estimate) == expected
    assert value("si_sdr", reference, reference * [[1.0], [0.5]]) < 12
    assert value("si_sdr", np.tile([1.0, 1.0], (1, 50)), np.tile([1.0, -1.0], (1, 50))) == -math.inf


@pytest.mark.slow
def test_float32_sums_of_long_tracks_are_exact() -> None:
    """A float32 sum over ten million equal squares would be wrong in the second digit."""
    reference = np.full((1, 10_000_000), 0.1, np.float32)
    assert value("snr", reference, np.float32(0.9) * reference) == pytest.approx(20, abs=1e-4)


# --------------------------------------------------------- distances of frames


def test_l1_distances_of_constants_by_hand() -> None:
    reference = np.full((2, 2**17), 0.25)
    estimate = reference + np.array([[0.125], [0.375]])
    assert value("l1", reference, estimate) == pytest.approx(0.25)
    # The Hann window spreads a constant d over three bins: 2 d and d. Only the ends differ.
    expected = 0.25 * 3 / 1025
    assert value("l1_stft", reference, estimate) == pytest.approx(expected, rel=0.02)


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    reference = 1000 * noise(2, 9216)  # no bin near the floor
    assert value("lsd", reference, reference / 10) == pytest.approx(20, abs=1e-4)


def test_log_spectral_distance_of_silence_is_limited_by_the_floor() -> None:
    sine = np.sin(2 * np.pi * 100 / 2048 * np.arange(2**20))[None]
    # The sine has 0 dB in its bin and -6.02 dB in the two beside it, the floor is at -100 dB.
    expected = math.sqrt((100**2 + 2 * (100 - decibels(4)) ** 2) / 1025)
    assert value("lsd", sine, 0 * sine) == pytest.approx(expected, rel=0.02)


def test_block_length_does_not_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = noise(2, 9123), noise(2, 9123, seed=1)
    expected = measure(METRICS, *pair, RATE)
    monkeypatch.setattr(metrics, "_BLOCK_FRAMES", 1)
    assert measure(METRICS, *pair, RATE) == pytest.approx(expected)


# ------------------------------------------------------------ signal difference


@pytest.mark.parametrize("gain", [1.0, 0.3, -2.0])
def test_signal_difference_equals_its_definition(gain: float) -> None:
    reference = noise(1, 4410)
    estimate = gain * (reference + noise(1, 4410, seed=1) / 2)
    s, e = (signal[0] / np.abs(signal).max() for signal in (reference, estimate))
    expected = np.abs(np.sum(s**2) - np.sum(e**2)) / np.sum(s**2)
    for true, found in ((s, e), (np.fft.fft(s), np.fft.fft(e))):
        own, cross = np.correlate(true, true)[0], np.correlate(true, found)[0]
        expected += np.abs(own - cross) / np.abs(own)
    difference = value("signal_difference", reference, estimate)
    assert difference == pytest.approx(1000 * 0.33 * expected, rel=1e-9)


def test_signal_difference_of_equal_signals_silence_and_stereo() -> None:
    reference = noise(2, 999)
    assert value("signal_difference", reference, reference / 7) == pytest.approx(0, abs=1e-9)
    assert value("signal_difference", reference, 0 * reference) == pytest.approx(990)
    assert math.isnan(value("signal_difference", 0 * reference, reference))


# -------------------------------------------------------- bleedless and fullness


def definition(reference: Signal, estimate: Signal) -> list[float]:
    """Bleedless and fullness as in ZFTurbo's code, from torchaudio's transforms."""
    mel = torchaudio.transforms.MelSpectrogram(
        RATE, 4096, hop_length=1024, n_mels=512, power=1, pad_mode="constant",
        norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    to_decibels = torchaudio.transforms.AmplitudeToDB(stype="magnitude", top_db=80)
    levels = [to_decibels(mel(torch.from_numpy(x).float())) for x in (reference, estimate)]
    excess = levels[1] - levels[0]
    above, below = excess[excess > 0], excess[excess < 0]
    return [100 / (1 + float(above.mean())), 100 / (1 - float(below.mean()))]


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@pytest.mark.parametrize("smooth", [1, 51])
def test_bleedless_and_fullness_equal_their_definition(smooth: int) -> None:
    reference = noise(2, 20_001)
    kernel = np.ones(smooth) / smooth  # low-passed, most bands are at the floor
    reference = np.stack([np.convolve(channel, kernel, "same") for channel in reference])
    estimate = 0.8 * reference + noise(2, 20_001, seed=1) / 20
    found = measure(["bleedless", "fullness"], reference, estimate, RATE)
    assert list(found.values()) == pytest.approx(definition(reference, estimate), rel=1e-4)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@pytest.mark.parametrize(
    ("gain_db", "expected"), [(6.0, [100 / 7, 100]), (-6.0, [100, 100 / 7]), (0.0, [100, 100])]
)
def test_bleedless_and_fullness_of_a_gain(gain_db: float, expected: list[float]) -> None:
    reference = noise(1, 30_000)
    found = measure(["bleedless", "fullness"], reference, reference * 10 ** (gain_db / 20), RATE)
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------ all metrics


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_equal_signals() -> None:
    found = measure(METRICS, noise(2, 3000), noise(2, 3000), RATE)
    assert found == {
        "snr": math.inf, "si_sdr": math.inf, "l1": 0, "signal_difference": 0, "lsd": 0,
        "l1_stft": 0, "bleedless": 100, "fullness": 100,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_silent_reference_or_estimate() -> None:
    sound, silence = noise(1, 3000), np.zeros((1, 3000))
    for estimate in (sound, silence):
        found = measure(METRICS, silence, estimate, RATE)
        assert math.isnan(found["snr"])
        assert math.isnan(found["si_sdr"])
        assert all((found[name] > 0) == estimate.any() for name in DISTANCES)
    found = measure(METRICS, sound, silence, RATE)
    assert found["snr"] == 0
    assert math.isnan(found["si_sdr"])
    assert found["bleedless"] == 100
    assert found["fullness"] < 2


@pytest.mark.parametrize("sample", [math.nan, math.inf, -math.inf])
def test_nan_or_infinite_samples_give_nan(sample: float) -> None:
    pair = [noise(2, 3000), noise(2, 3000, seed=1)]
    for signal in pair:
        kept, signal[1, 100] = signal[1, 100], sample
        assert all(math.isnan(each) for each in measure(METRICS, pair[0], pair[1], RATE).values())
        signal[1, 100] = kept


@pytest.mark.parametrize(
    "shapes", [((2, 9), (2, 8)), ((2, 9), (1, 9)), ((9,), (9,)), ((2, 0),) * 2]
)
def test_shapes_that_do_not_match_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected both as"):
        measure(["snr"], np.ones(shapes[0]), np.ones(shapes[1]), RATE)
