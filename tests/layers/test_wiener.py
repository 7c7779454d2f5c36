"""The Wiener filter against its formula; ``tests/reference`` compares other implementations."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.unet import UNet
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.masks import masks
from lightning_modules.layers.wiener import wiener


def spectra(
    channels: int = 2, sources: int = 3, bins: int = 5, frames: int = 20, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Estimates that do not add up to the mixture exactly."""
    torch.manual_seed(0)
    true = scale * torch.randn(2, sources, channels, bins, frames, dtype=torch.complex128)
    return 0.7 * true + 0.1 * torch.randn_like(true), true.sum(1)


def direct_filter(y: Tensor, x: Tensor, iterations: int, eps: float) -> Tensor:
    """The module's formulas for one example y (S, C, F, N), bin by bin and frame by frame."""
    loudness = max(1.0, float(x.abs().max()) / 10) ** 2
    for _ in range(iterations):
        powers = y.abs().square().mean(1)  # (S, F, N)
        result = torch.zeros_like(y)
        for f in range(x.shape[1]):
            spatial = [
                torch.stack([torch.outer(v, v.conj()) for v in source[:, f].T]).sum(0)
                / (eps * loudness + power[f].sum())
                for source, power in zip(y, powers, strict=True)
            ]
            for n in range(x.shape[2]):
                total = eps**0.5 * loudness * torch.eye(x.shape[0], dtype=x.dtype)
                total = total + sum(p[f, n] * r for p, r in zip(powers, spatial, strict=True))
                for s, (power, r) in enumerate(zip(powers, spatial, strict=True)):
                    result[s, :, f, n] = power[f, n] * r @ torch.linalg.inv(total) @ x[:, f, n]
        y = result
    return y


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_filter_equals_the_formula(channels: int, iterations: int, scale: float) -> None:
    y, x = spectra(channels, scale=scale)
    refined = wiener(y, x, iterations, eps=1e-3)
    for number in range(2):
        expected = direct_filter(y[number], x[number], iterations, 1e-3)
        assert torch.allclose(refined[number], expected, rtol=1e-9, atol=1e-9)


def test_inputs_are_not_modified() -> None:
    y, x = spectra()
    before = y.clone(), x.clone()
    assert wiener(y, x, 0) is y
    wiener(y, x, 2, residual=True)
    assert torch.equal(y, before[0])
    assert torch.equal(x, before[1])


def test_estimates_add_up_to_the_mixture() -> None:
    y, x = spectra()
    refined = wiener(y, x, 2)
    assert (refined.sum(1) - x).abs().max() < 1e-3
    assert (y.sum(1) - x).abs().max() > 0.1


def test_result_does_not_depend_on_bins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = spectra(bins=7)
    whole = wiener(y, x, 2)
    monkeypatch.setattr("lightning_modules.layers.wiener._BINS_AT_ONCE", 3)
    assert torch.allclose(wiener(y, x, 2), whole, rtol=1e-12, atol=1e-14)


def test_excerpts_are_filtered_independently() -> None:
    y, x = spectra(frames=20)
    parts = [wiener(y[..., a:b], x[..., a:b], 2) for a, b in ((0, 8), (8, 16), (16, 20))]
    assert torch.allclose(wiener(y, x, 2, frames=8), torch.cat(parts, -1), rtol=1e-12, atol=1e-14)
    assert torch.equal(wiener(y, x, 2, frames=None), wiener(y, x, 2, frames=20))


def test_residual_is_a_source_that_is_not_returned() -> None:
    y, x = spectra()
    rest = x[:, None] - y.sum(1, keepdim=True)
    expected = wiener(torch.cat([y, rest], 1), x, 2)[:, :3]
    assert torch.equal(wiener(y, x, 2, residual=True), expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_silence_gives_silence(dtype: torch.dtype, channels: int) -> None:
    y, x = (each.to(dtype) for each in spectra(channels))
    x[0], y[0] = 0, 0  # a silent example
    y[1, 0] = 0  # a silent source
    x[1, :, 2], y[1, :, :, 2] = 0, 0  # a silent bin
    x[1, :, :, 4], y[1, :, :, :, 4] = 0, 0  # a silent frame
    x[1, :, 3] *= 1e-30  # a nearly silent one
    y[1, :, :, 3] *= 1e-30
    refined = wiener(y, x, 3)
    assert refined.dtype == dtype
    assert refined.isfinite().all()
    silent = (refined[0], refined[1, 0], refined[1, :, :, 2], refined[1, :, :, :, 4])
    assert all(each.abs().max() == 0 for each in silent)


def test_one_loud_panned_source() -> None:
    """Without the noise, the mixture's covariance would be singular."""
    y, x = spectra(sources=2)
    y[:, :, 1] = 2 * y[:, :, 0]
    y[:, 1] *= 1e-8
    x = y.sum(1)
    refined = wiener((1e6 * y).to(torch.complex64), (1e6 * x).to(torch.complex64), 4)
    assert refined.isfinite().all()
    assert torch.allclose(refined[:, 0], (1e6 * x).to(torch.complex64), rtol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), complex(0, float("-inf"))])
@pytest.mark.parametrize("where", ["estimates", "mixture"])
def test_non_finite_bins_do_not_change_others(value: Any, where: str) -> None:
    y, x = spectra()
    corrupted_y, corrupted_x = y.clone(), x.clone()
    if where == "estimates":
        corrupted_y[0, 1, 0, 2, 7] = value
    else:
        corrupted_x[0, 1, 2, 7] = value
    refined = wiener(corrupted_y, corrupted_x, 2)
    assert refined[0, :, :, 2, 7].isnan().all()
    refined[0, :, :, 2, 7] = 0
    assert refined.isfinite().all()
    # The others are as if the bin were zero.
    y[0, :, :, 2, 7], x[0, :, 2, 7] = 0, 0
    assert torch.allclose(refined, wiener(y, x, 2), rtol=1e-12)


# ----------------------------------------------------------- in a separator


def separator(**arguments: Any) -> SpectrogramSeparator:
    torch.manual_seed(0)
    sources = arguments.pop("sources", ["vocals", "drums", "bass", "other"])
    tiny: dict[str, Any] = {"channels": [4, 8], "n_fft": 512, "hop_length": 256}
    return UNet(sources, **tiny, **arguments).eval()


@pytest.mark.parametrize("mask", ["none", "ratio", "binary"])
@pytest.mark.parametrize("channels", [1, 2])
def test_filter_in_a_spectrogram_model(
    mask: Literal["none", "ratio", "binary"], channels: int
) -> None:
    model = separator(
        mask=mask, audio_channels=channels, wiener_iterations=2, wiener_residual=channels == 2
    )
    mixture = 0.3 * torch.randn(2, channels, 5000)
    with torch.no_grad():
        estimates, spectrum = model(mixture), model.stft(mixture)
        magnitudes = model.magnitudes(spectrum.abs())
    if mask == "none":
        first = magnitudes * torch.sgn(spectrum)[:, None]
    else:
        first = masks(magnitudes, mask) * spectrum[:, None]
    expected = wiener(first, spectrum, 2, residual=channels == 2)
    assert torch.equal(estimates, model.istft(expected, 5000))


def test_one_source_without_residual_raises() -> None:
    with pytest.raises(ValueError, match=r"wiener_iterations is 1 with one source.*wiener_resid"):
        separator(sources=["vocals"], wiener_iterations=1)
    with pytest.raises(ValueError, match=r"wiener_iterations is -1"):
        separator(wiener_iterations=-1)
    model = separator(sources=["vocals"], wiener_iterations=1, wiener_residual=True)
    with torch.no_grad():
        assert model(torch.randn(1, 2, 5000)).shape == (1, 1, 2, 5000)
