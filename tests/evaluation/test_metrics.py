"""Metrics against values worked by hand, torchmetrics and the scorer; silence and faults."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.audio import (
    scale_invariant_signal_distortion_ratio,
    signal_noise_ratio,
)

from lightning_modules.evaluation import frames, metrics, scores
from lightning_modules.evaluation.metrics import distances, energies, evaluate

RATE = 1000
RATIOS = ("usdr", "csdr", "snr", "si_sdr")
DIFFERENCES = (
    "time_difference_mean",
    "time_difference_median",
    "stft_difference_mean",
    "stft_difference_median",
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 8


def figures(references: Tensor, estimates: Tensor) -> dict[str, Tensor]:
    return evaluate(references, estimates, references.sum(-3), RATE)


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio)


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second and one frame at a time."""
    monkeypatch.setattr(metrics, "_BLOCK_SAMPLES", 1)
    monkeypatch.setattr(frames, "_BLOCK_SAMPLES", 1)


# ------------------------------------------------------------ ratios of energies


def test_ratios_by_hand() -> None:
    # energies: 4 x 2500 samples in both channels; the error is 1 in the first second, 0.5 later
    reference = torch.full((1, 2, 2500), 2.0)
    estimate = reference + 0.5
    estimate[..., :1000] = 3.0
    found = figures(reference, estimate)
    error = 2 * (1000 + 1500 / 4)
    ratio = 2 * 2500 * 4 / error
    assert found["snr"].item() == pytest.approx(decibels(ratio), abs=1e-12)
    assert found["usdr"].item() == pytest.approx(decibels(ratio), abs=1e-6)
    # 4 and 16 in the two whole seconds; the half second at the end does not count
    assert found["csdr"].item() == pytest.approx((decibels(4) + decibels(16)) / 2, abs=1e-6)
    factor = (3 * 1000 + 2.5 * 1500) / (2 * 2500)
    residual = 2 * (1000 * (3 - 2 * factor) ** 2 + 1500 * (2.5 - 2 * factor) ** 2)
    target = 2 * 2500 * (2 * factor) ** 2
    assert found["si_sdr"].item() == pytest.approx(decibels(target / residual), abs=1e-9)


def test_ratios_of_mono_are_those_of_torchmetrics() -> None:
    references = noise(3, 4, 1, 3210).double()
    estimates = 0.7 * references + noise(3, 4, 1, 3210, seed=1).double() / 3
    found = figures(references, estimates)
    for name, theirs in (
        ("si_sdr", scale_invariant_signal_distortion_ratio),
        ("snr", signal_noise_ratio),
    ):
        expected = theirs(estimates, references)[..., 0]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_usdr_is_the_scorers(dtype: torch.dtype) -> None:
    references = noise(4, 2, 4321).to(dtype)
    references[2] = 0
    references[3] *= 1e-6  # where the constant is felt
    estimates = references + noise(4, 2, 4321, seed=1).to(dtype) / 10
    estimates[3] = references[3]
    expected = scores.usdr(references.double().numpy(), estimates.double().numpy())
    np.testing.assert_allclose(
        figures(references, estimates)["usdr"].numpy(), expected, rtol=0, atol=1e-9
    )


def test_si_sdr_is_deaf_to_gain_but_not_to_balance() -> None:
    references = noise(2, 2, 3000).double()
    estimates = references + noise(2, 2, 3000, seed=1) / 10
    expected = figures(references, estimates)["si_sdr"]
    for gain in (-3.0, 1e-3, 50.0):
        torch.testing.assert_close(figures(references, gain * estimates)["si_sdr"], expected)
    tilted = references * torch.tensor([1.0, 0.5])[:, None]
    assert (figures(references, tilted)["si_sdr"] < 12).all()
    mono = figures(references.reshape(4, 1, 3000), tilted.reshape(4, 1, 3000))["si_sdr"]
    assert (mono > 120).all()


def test_long_tracks_lose_nothing() -> None:
    """A float32 sum over ten million equal squares would be wrong in the second digit."""
    reference = torch.full((1, 1, 1), 0.1).expand(1, 1, 10_000_000)
    (sums,) = energies(reference, 0.9 * reference, sample_rate=44100)
    value = float(reference[0, 0, 0])
    assert sums.reference.sum().item() == pytest.approx(1e7 * value**2, rel=1e-12)
    assert metrics.snr(sums).item() == pytest.approx(20, abs=1e-5)


def test_chunks_of_silence_do_not_count() -> None:
    reference, estimate = noise(1, 1, 4000), noise(1, 1, 4000, seed=1)
    reference[..., 1000:2000] = 0
    loud = [0, 2000, 3000]
    expected = sorted(
        figures(reference[..., i : i + 1000], estimate[..., i : i + 1000])["usdr"].item()
        for i in loud
    )
    assert figures(reference, estimate)["csdr"].item() == pytest.approx(expected[1], abs=1e-9)
    short = figures(reference[..., :300], estimate[..., :300])  # a short track is one chunk
    assert short["csdr"] == short["usdr"]


# --------------------------------------------------------- distances of frames


def test_differences_by_hand() -> None:
    """Frames in the middle of constant signals differ by what was put in."""
    samples = 8 * 2048
    reference = torch.full((1, 2, samples), 0.25)
    (found,) = distances(reference, reference + torch.tensor([0.125, 0.375])[:, None])
    middle = slice(2, -2)
    assert found.waveform.shape == (1, samples // 1024 + 1)
    torch.testing.assert_close(
        found.waveform[0, middle], torch.full((13,), 0.25, dtype=torch.float64)
    )
    # a Hann window has a constant d in three bins: 2d, and d in the next; two channels
    spread = (0.125 + 0.375) / 2 * 3 / 1025
    torch.testing.assert_close(
        found.magnitude[0, middle],
        torch.full((13,), spread, dtype=torch.float64),
        rtol=1e-4,
        atol=0,
    )


def test_means_and_medians_over_frames() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 10.0]]).double()
    found = metrics.Distances(values, values, 2 * values)
    assert [figure.item() for figure in metrics.time_difference(found)] == [4, 2.5]
    assert [figure.item() for figure in metrics.stft_difference(found)] == [8, 5]
    assert metrics.lsd(found).item() == 4


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    reference = 1000 * noise(1, 2, 9216)  # no bin near the floor
    assert figures(reference, reference / 10)["lsd"].item() == pytest.approx(20, abs=1e-4)
    # against silence: the level above the floor, 100 dB under a sine of amplitude 1
    time = torch.arange(8 * 2048).double()
    sine = torch.sin(2 * torch.pi * 100 / 2048 * time)[None, None]
    (found,) = distances(sine, torch.zeros_like(sine))
    # a Hann window puts it into three bins: 0 dB, and 6.02 dB less beside it
    side = 100 - decibels(4)
    expected = math.sqrt((100**2 + 2 * side**2) / 1025)
    assert found.log_spectral[0, 5].item() == pytest.approx(expected, rel=1e-3)


def test_frames_are_those_of_torch() -> None:
    signal = noise(3, 5000)
    window = torch.hann_window(512)
    found = frames.spectra(frames.segments(signal, range(2, 15), 512, 128), window)
    expected = torch.stft(
        signal, 512, 128, window=window, pad_mode="constant", return_complex=True
    )[..., 2:15]
    torch.testing.assert_close(found, expected.mT)
    assert frames.frame_count(5000, 128) == 5000 // 128 + 2  # the last one holds what is left
    assert frames.frame_count(5120, 128) == 5120 // 128 + 1


def test_frames_beyond_a_short_signal() -> None:
    short = torch.ones(3)
    found = frames.segments(short, range(frames.frame_count(3, 4)), 8, 4)
    assert found.tolist() == [[0, 0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0]]


# ------------------------------------------------------------------ all at once


def test_equal_signals() -> None:
    references = (noise(2, 2, 3000) * 2**10).round() / 2**10  # whose sum is exact
    found = figures(references, references.clone())
    assert (found["snr"] == math.inf).all()
    assert (found["si_sdr"] == math.inf).all()
    assert (found["usdr"] > 80).all()
    assert found["usdr"].isfinite().all()
    for name in ("lsd", *DIFFERENCES):
        assert (found[name] == 0).all(), name
    assert found["sum_error"] == -math.inf


def test_silence() -> None:
    references = noise(2, 1, 3000)
    references[0] = 0
    estimates = noise(2, 1, 3000, seed=1)
    estimates[1] = 0
    found = figures(references, estimates)
    for name in RATIOS:
        assert found[name][0].isnan(), name
        assert found[f"{name}_improvement"][0].isnan(), name
    assert [found[name][1].item() for name in RATIOS[:3]] == [0, 0, 0]
    assert found["si_sdr"][1].isnan()
    for name in ("lsd", *DIFFERENCES):
        assert (found[name] > 0).all(), name
    silent = torch.zeros(1, 1, 3000)
    found = figures(silent, silent)
    assert found["sum_error"].isnan()
    assert all(found[name].isnan() for name in RATIOS)
    assert all(found[name] == 0 for name in ("lsd", *DIFFERENCES))


def test_no_part_of_the_reference() -> None:
    reference = torch.tensor([1.0, 1.0, 1.0, 1.0]).repeat(500)[None, None]
    estimate = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(500)[None, None]
    assert figures(reference, estimate)["si_sdr"].item() == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["reference", "estimate"])
def test_samples_that_are_not_finite_spoil_their_source_alone(value: float, where: str) -> None:
    references = noise(2, 2, 3000)
    estimates = noise(2, 2, 3000, seed=1)
    (references if where == "reference" else estimates)[0, 1, 100] = value
    found = evaluate(references, estimates, noise(2, 3000, seed=2), RATE)
    for name in (*RATIOS, "lsd", *DIFFERENCES):
        assert found[name][0].isnan(), name
        assert found[name][1].isfinite(), name
        assert found[f"{name}_improvement"][1].isfinite(), name


def test_improvement_is_over_the_mixture_as_estimate() -> None:
    references, estimates = noise(3, 4, 2, 2100), noise(3, 4, 2, 2100, seed=1)
    mixture = noise(3, 2, 2100, seed=2)
    found = evaluate(references, estimates, mixture, RATE)
    baseline = evaluate(references, mixture[:, None].expand_as(references), mixture, RATE)
    for name in (*RATIOS, "lsd", *DIFFERENCES):
        assert found[name].shape == (3, 4)
        torch.testing.assert_close(found[f"{name}_improvement"], found[name] - baseline[name])
        assert (baseline[f"{name}_improvement"] == 0).all()
    assert len(found) == 2 * 9 + 1
    one = evaluate(references[1], estimates[1], mixture[1], RATE)  # a batch is its tracks
    for name, figure in found.items():
        torch.testing.assert_close(figure[1], one[name])


def test_blocks_do_not_show(request: pytest.FixtureRequest) -> None:
    references, estimates = noise(2, 2, 9123), noise(2, 2, 9123, seed=1)
    expected = figures(references, estimates)
    request.getfixturevalue("tiny_blocks")
    for name, figure in figures(references, estimates).items():
        torch.testing.assert_close(figure, expected[name], msg=name)


def test_no_graph_is_kept() -> None:
    references = noise(2, 1, 2000)
    found = figures(references, references.clone().requires_grad_())
    assert not any(figure.requires_grad for figure in found.values())


@pytest.mark.parametrize(
    ("references", "estimates", "mixture"),
    [
        ((2, 1, 100), (2, 1, 99), (1, 100)),
        ((2, 1, 100), (3, 1, 100), (1, 100)),
        ((2, 1, 100), (2, 1, 100), (2, 100)),
        ((2, 1, 100), (2, 1, 100), (1, 99)),
        ((1, 100), (1, 100), (100,)),
        ((2, 1, 0), (2, 1, 0), (1, 0)),
    ],
)
def test_shapes_that_do_not_agree(
    references: tuple[int, ...], estimates: tuple[int, ...], mixture: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected"):
        evaluate(torch.ones(references), torch.ones(estimates), torch.ones(mixture))


def test_passes_take_one_signal_for_all_sources_and_nothing_else() -> None:
    references = noise(3, 2, 2000)
    (one,) = energies(references, references[:1])
    assert one.error[:, 0].tolist()[0] == 0
    assert (one.error[1:] > 0).all()
    for reduce in (energies, distances):
        with pytest.raises(ValueError, match=r"\(3, 2, 2000\) and \(2, 2, 2000\): expected"):
            reduce(references, references[:2])
    with pytest.raises(ValueError, match="mixture has shape"):
        metrics.sum_error(references, references)


# ---------------------------------------------------------- sums and time shifts


def test_error_of_the_sum() -> None:
    mixture = torch.full((2, 500), 0.5)
    estimates = torch.stack([mixture, 0.1 * mixture])
    assert metrics.sum_error(estimates, mixture).item() == pytest.approx(-20, abs=1e-5)
    both = metrics.sum_error(torch.stack([estimates, 2 * estimates]), mixture.expand(2, 2, 500))
    assert both.tolist() == pytest.approx([-20, 20 * math.log10(1.2)], abs=1e-5)


def every_other_sample(mixture: Tensor) -> Tensor:
    """A system that treats even and odd samples differently."""
    gain = torch.ones(mixture.shape[-1])
    gain[1::2] = 0.5
    return torch.stack([mixture * gain, torch.zeros_like(mixture)])


def test_error_under_a_shift() -> None:
    mixture = torch.ones(2, 1000)
    error: Callable[[int], Tensor] = lambda shift: metrics.shift_error(  # noqa: E731
        every_other_sample, mixture, shift
    )
    for shift in (0, 2, 10):
        assert error(shift)[0] == -math.inf
    # every sample is off by a half; the energies are 1 and a quarter in turn
    assert error(3)[0].item() == pytest.approx(decibels(0.25 / 0.625), abs=1e-9)
    assert error(3)[1].isnan()
    with pytest.raises(ValueError, match="shift_samples is -1"):
        error(-1)
