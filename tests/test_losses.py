"""Losses: exact values, silence, precision, and errors for invalid shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from lightning_modules import losses
from lightning_modules.layers.hearing import hearing
from lightning_modules.losses import (
    L1,
    MSE,
    AlphaWeighted,
    LogL1,
    LogWMSE,
    MultiResolutionComplexSTFT,
    MultiResolutionSTFT,
    NegativeSDR,
    NegativeSISDR,
    QuantileMasked,
    SourceLoss,
    SpectralL1,
    SpectralRMSE,
    alpha_weights,
)

EVERY: list[SourceLoss] = [
    L1(),
    MSE(),
    LogL1(),
    NegativeSDR(),
    NegativeSISDR(),
    SpectralL1(n_fft=256, hop_length=64),
    SpectralRMSE(n_fft=256, hop_length=64),
    MultiResolutionSTFT(),
    MultiResolutionComplexSTFT(window_lengths=(256, 128), n_fft=256),
    LogWMSE(),
    AlphaWeighted(L1(), {"vocals": 0.25, "rest": 0.75}),
    QuantileMasked(MSE(), 0.5).eval(),  # masks in training only
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def test_every_loss_is_tested() -> None:
    assert {type(loss) for loss in EVERY} == set(SourceLoss.__subclasses__())


# ----------------------------------------------------------------- values


def test_waveform_errors_have_exact_values() -> None:
    """Two examples, two sources, one channel, two samples."""
    targets = torch.zeros(2, 2, 1, 2)
    estimates = torch.tensor([[[[1.0, -3.0]], [[0.0, 0.0]]], [[[0.5, 0.5]], [[0.0, -0.2]]]])
    mixture = targets[:, 0]
    assert L1()(estimates, targets, mixture).tolist() == [[2.0, 0.0], [0.5, pytest.approx(0.1)]]
    squares = [[5.0, 0.0], [0.25, pytest.approx(0.02)]]
    assert MSE()(estimates, targets, mixture).tolist() == squares
    decibels = [[10 * math.log10(2), -80.0], [10 * math.log10(0.5), -10.0]]
    found = LogL1()(estimates, targets, mixture)
    assert torch.allclose(found, torch.tensor(decibels), atol=1e-5)


def test_l1_of_magnitudes() -> None:
    targets = torch.rand(2, 3, 2, 5, 7)
    assert torch.allclose(L1()(targets + 0.5, targets, targets[:, 0]), torch.full((2, 3), 0.5))


def test_masked_losses_leave_out_the_highest_of_a_batch() -> None:
    loss, mixture = QuantileMasked(L1(), 0.5), torch.zeros(4, 1, 10)
    errors = torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]], requires_grad=True)
    estimates = errors[..., None, None].expand(4, 2, 1, 10)
    found = loss(estimates, torch.zeros(4, 2, 1, 10), mixture)
    assert found.tolist() == [[1, 0], [2, 0], [0, 6], [0, 5]]
    found.sum().backward()
    assert errors.grad is not None
    assert torch.allclose(errors.grad, torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    alone = loss(estimates[:1], torch.zeros(1, 2, 1, 10), mixture[:1])
    assert alone.tolist() == [[1, 8]]
    equal = loss(torch.ones(3, 1, 1, 10), torch.zeros(3, 1, 1, 10), mixture[:3])
    assert equal.tolist() == [[1], [1], [1]]
    weighted = QuantileMasked(AlphaWeighted(L1(), {"a": 0.25, "b": 0.75}))
    assert weighted.total({"a": torch.tensor(4.0), "b": torch.tensor(8.0)}) == 7
    with pytest.raises(ValueError, match=r"quantile is 1\.5: give"):
        QuantileMasked(L1(), 1.5)


def test_sdr_of_a_scaled_target() -> None:
    """A tenth of the target is missing in all channels: 20 dB."""
    targets = noise(2, 2, 2, 1000)
    found = NegativeSDR()(0.9 * targets, targets, targets.sum(1))
    assert torch.allclose(found, torch.full_like(found, -20.0), atol=1e-5)
    silent = NegativeSDR()(torch.full((1, 1, 1, 9), 0.1), torch.zeros(1, 1, 1, 9), noise(1, 1, 9))
    assert silent.item() == pytest.approx(60, abs=1e-4)  # -20 dB, above -80


@pytest.mark.parametrize("scale", [1.0, 0.1, -3.0])
def test_si_sdr_is_invariant_to_scale(scale: float) -> None:
    targets = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).expand(1, 2, 2, 4)
    other = torch.tensor([0.1, 0.1, -0.1, -0.1], dtype=torch.float64)
    found = NegativeSISDR()(scale * (targets + other), targets, targets.sum(1))
    assert torch.allclose(found, torch.full_like(found, -20.0), atol=1e-3)


def test_si_sdr_depends_on_the_balance_of_channels() -> None:
    """One scale for both: y = (1, 1), y^ = (1, 0) has a = 1/2 and equal powers of a y and error."""
    targets = torch.ones(1, 1, 2, 10, dtype=torch.float64)
    estimates = targets * torch.tensor([1.0, 0.0])[:, None]
    assert NegativeSISDR()(estimates, targets, targets[0]).item() == pytest.approx(0, abs=1e-6)


def impulse(samples: int, position: int, height: float) -> tuple[Tensor, Tensor]:
    """Targets, and estimates that are wrong in one sample of the second source."""
    targets = noise(1, 2, 1, samples)
    estimates = targets.clone()
    estimates[0, 1, 0, position] += height
    return estimates, targets


def test_spectral_rmse_of_an_impulse() -> None:
    """Its spectrum is flat: height / sqrt(n_fft) in the 4 of 33 frames that contain it."""
    estimates, targets = impulse(2048, 1000, 0.3)
    found = SpectralRMSE(n_fft=256, hop_length=64)(estimates, targets, targets.sum(1))
    assert found[0, 0].item() == pytest.approx(1e-6)
    # The mean is over real and imaginary parts: half of the squared magnitude.
    expected = math.sqrt(4 / 33 * 0.3**2 / 256 / 2)
    assert found[0, 1].item() == pytest.approx(expected, rel=1e-6)


def test_spectral_l1_of_an_impulse() -> None:
    """In a frame with the impulse at n, bin k is height w(n) exp(-2 pi i k n / n_fft)."""
    estimates, targets = impulse(2048, 1000, 0.3)
    found = SpectralL1(n_fft=256, hop_length=60)(estimates, targets, targets.sum(1))
    frames = 1 + 2048 // 60
    positions = 1000 - 60 * torch.arange(frames) + 128  # frames are centred
    positions = positions[(positions >= 0) & (positions < 256)]
    heights = 0.3 * torch.hann_window(256, dtype=torch.float64)[positions]
    angles = 2 * math.pi / 256 * torch.arange(129)[:, None] * positions
    parts = heights * (angles.cos().abs() + angles.sin().abs())  # (bins, frames)
    assert found[0, 0].item() == 0
    expected = 0.3 / 2048 + float(parts.sum()) / (129 * frames)
    assert found[0, 1].item() == pytest.approx(expected, rel=1e-6)


def test_complex_stft_of_an_impulse() -> None:
    """In each frame its spectrum has the window's height at its position."""
    estimates, targets = impulse(2048, 1000, 0.3)
    loss = MultiResolutionComplexSTFT(
        window_lengths=(256, 128), hop_length=60, n_fft=200, weight=2.0
    )
    expected = 0.3 / 2048
    for length, n_fft in ((256, 256), (128, 200)):
        frames = 1 + 2048 // 60
        # Windows are centred in their frames, frames on multiples of the hop.
        positions = 1000 - 60 * torch.arange(frames) + length // 2
        inside = positions[(positions >= 0) & (positions < length)]
        window = torch.hann_window(length, dtype=torch.float64)
        assert n_fft // 2 < 1000
        expected += 2.0 * 0.3 * float(window[inside].sum()) / frames
    found = loss(estimates, targets, targets.sum(1))
    assert found[0, 0].item() == 0
    assert found[0, 1].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_multi_resolution_stft_of_a_gain(gain: float) -> None:
    """Spectral convergence is |1 - g| and the log distance |ln g|, at any resolution."""
    targets = 10 * noise(2, 2, 2, 4000)
    found = MultiResolutionSTFT()(gain * targets, targets, targets.sum(1))
    expected = abs(1 - gain) + abs(math.log(gain))
    assert torch.allclose(found, torch.full_like(found, expected), atol=1e-4)


def test_resolutions_of_different_lengths_raise() -> None:
    with pytest.raises(ValueError, match=r"n_ffts are \[512\].*one of each"):
        MultiResolutionSTFT([512], [128, 64], [512])
    with pytest.raises(ValueError, match="no window longer"):
        MultiResolutionSTFT([512], [128], [600])


@pytest.mark.parametrize("sample_rate", [22050, 44100])
def test_log_wmse_of_a_fraction_of_the_mixture(sample_rate: float) -> None:
    """A fraction g gives 4 ln(g^2); errors 76 dB below the mixture count as zero."""
    loss = LogWMSE()
    loss.sample_rate = int(sample_rate)
    mixture, targets = noise(1, 2, 5000), noise(1, 2, 2, 5000, seed=1)
    for share, expected in ((0.1, 4 * math.log(0.01)), (2.0, 4 * math.log(4.0))):
        found = loss(targets + share * mixture[:, None], targets, mixture)
        assert torch.allclose(found, torch.full_like(found, expected), atol=1e-3)
    square = torch.ones(1, 1, 5000, dtype=torch.float64)
    square[..., ::2] = -1  # hardly any peaks
    found = loss(targets[:, :, :1] + 1e-5 * square, targets[:, :, :1], noise(1, 1, 5000))
    assert torch.allclose(found, torch.full_like(found, 4 * math.log(1e-8)))


def test_log_wmse_weights_3_khz_more_than_100_hz() -> None:
    time = torch.arange(44100, dtype=torch.float64) / 44100
    low, high = (torch.sin(2 * torch.pi * hz * time)[None, None] for hz in (100, 3000))
    targets = torch.zeros(1, 1, 1, 44100, dtype=torch.float64)
    found = LogWMSE()(low[None], targets, high).item()
    weights = hearing(44100, 44100)
    assert found == pytest.approx(8 * math.log(weights[100] / weights[3000]), abs=0.05)
    assert found < -8


def test_hearing_is_the_frequency_response_of_its_filters() -> None:
    """Impulse response of the filters with explicit coefficients; low-pass in both directions."""
    signal = np.zeros(2**16)
    signal[2**15] = 1
    a, w = 10 ** (5 / 40), 2 * np.pi * 1500 / 44100
    alpha, cosine = np.sin(w) / 2**0.5, np.cos(w)
    root = 2 * a**0.5 * alpha
    b = [a * (a + 1 + (a - 1) * cosine + root), -2 * a * (a - 1 + (a + 1) * cosine)]
    b += [a * (a + 1 + (a - 1) * cosine - root)]
    c = [a + 1 - (a - 1) * cosine + root, 2 * (a - 1 - (a + 1) * cosine)]
    c += [a + 1 - (a - 1) * cosine - root]
    signal = scipy.signal.lfilter(b, c, signal)
    a, w = 10 ** (2.5 / 40), 2 * np.pi * 500 / 44100
    alpha, cosine = np.sin(w) / (2 * 1.5 / 2**0.5), np.cos(w)
    b, c = [1 + alpha * a, -2 * cosine, 1 - alpha * a], [1 + alpha / a, -2 * cosine, 1 - alpha / a]
    signal = scipy.signal.lfilter(b, c, signal)
    signal = scipy.signal.lfilter(*scipy.signal.butter(2, 120 / 22050, "high"), signal)
    signal = scipy.signal.filtfilt(*scipy.signal.butter(1, 10000 / 22050), signal)
    expected = np.abs(np.fft.rfft(signal))
    assert np.allclose(hearing(2**16, 44100), expected, atol=1e-3)
    # Weights at another rate are the same at the same frequencies.
    assert torch.allclose(hearing(1000, 22050), hearing(2000, 44100)[:501])
    assert hearing(100, 96000)[-1] < 1e-9


def test_alphas_weight_sources_by_name() -> None:
    loss = AlphaWeighted(MSE(), {"rest": 0.75, "vocals": 0.25})
    parts = {"vocals": torch.tensor(4.0), "rest": torch.tensor(8.0)}
    assert loss.total(parts) == 7.0
    assert MSE().total(parts) == 6.0
    assert alpha_weights({"rest": 1.0, "vocals": 0.0}, ["vocals", "rest"]).tolist() == [0.0, 1.0]
    estimates, targets = noise(2, 2, 1, 9), noise(2, 2, 1, 9, seed=1)
    arguments = estimates, targets, targets[:, 0]
    assert torch.equal(loss(*arguments), MSE()(*arguments))


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ({"vocals": 0.5, "rest": 0.6}, r"add up to 1\.1"),
        ({"vocals": 1.5, "rest": -0.5}, "non-negative"),
        ({"vocals": 1.0}, "rest is missing"),
        ({"vocals": math.nan, "rest": 1.0}, "add up to nan"),
    ],
)
def test_invalid_alphas_raise(alphas: dict[str, float], words: str) -> None:
    parts = {"vocals": torch.tensor(4.0), "rest": torch.tensor(8.0)}
    with pytest.raises(ValueError, match=words):
        AlphaWeighted(MSE(), alphas).total(parts)


# ------------------------------------------------------------------ all losses


def names(value: Any) -> str | None:
    return type(value).__name__ if isinstance(value, SourceLoss) else None


@pytest.mark.parametrize("loss", EVERY, ids=names)
@pytest.mark.parametrize("estimate", ["silent", "right", "wrong"])
@pytest.mark.parametrize("silent", ["target", "mixture and target", "nothing"])
def test_gradients_are_finite_for_silence(loss: SourceLoss, estimate: str, silent: str) -> None:
    samples = 1500
    targets, mixture = noise(2, 2, 2, samples).float(), noise(2, 2, samples, seed=1).float()
    if silent != "nothing":
        targets[:, 0] = 0
    if silent == "mixture and target":
        mixture = mixture * 0
    values = {"silent": 0 * targets, "right": targets, "wrong": targets + 0.1}
    estimates = values[estimate].clone().requires_grad_()
    found = loss(estimates, targets, mixture)
    assert found.shape == (2, 2)
    assert found.isfinite().all()
    found.sum().backward()
    assert estimates.grad is not None
    assert estimates.grad.isfinite().all()
    if estimate == "wrong":
        assert estimates.grad.abs().max() > 0


@pytest.mark.parametrize("loss", EVERY, ids=names)
def test_values_depend_on_their_example_and_source_only(loss: SourceLoss) -> None:
    targets, mixture = noise(2, 2, 2, 1500), noise(2, 2, 1500, seed=1)
    estimates = targets + noise(2, 2, 2, 1500, seed=2)
    before = loss(estimates, targets, mixture)
    estimates[1, 0] += noise(2, 1500, seed=3)
    changed = (loss(estimates, targets, mixture) - before).abs() > 1e-9
    assert changed.tolist() == [[False, False], [True, False]]
    assert torch.allclose(before[:1], loss(estimates[:1], targets[:1], mixture[:1]))


@pytest.mark.parametrize("loss", EVERY, ids=names)
@pytest.mark.parametrize("samples", [1, 2, 100])
def test_any_length(loss: SourceLoss, samples: int) -> None:
    targets = noise(1, 2, 1, samples)
    assert loss(0.5 * targets, targets, targets.sum(1)).isfinite().all()


@pytest.mark.parametrize("loss", EVERY, ids=names)
def test_half_precision_is_computed_in_single(loss: SourceLoss) -> None:
    targets, mixture = noise(1, 2, 1, 1500).bfloat16(), noise(1, 1, 1500, seed=1).bfloat16()
    estimates = 0.5 * targets
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(estimates, targets, mixture)
    assert found.dtype == torch.float32
    expected = loss(estimates.double(), targets.double(), mixture.double())
    assert torch.allclose(found.double(), expected, rtol=1e-4)


@pytest.mark.parametrize("loss", EVERY, ids=names)
def test_losses_have_no_parameters_and_no_saved_state(loss: SourceLoss) -> None:
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_different_shapes_raise() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 1, 9\), targets \(1, 2, 9\).*batch, sources"):
        losses.L1()(torch.zeros(1, 2, 1, 9), torch.zeros(1, 2, 9), torch.zeros(1, 1, 9))
