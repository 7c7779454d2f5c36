"""STFT and its inverse, also that of exported programs."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.layers.stft import STFT, Window, inverse_stft


@pytest.mark.parametrize("samples", [1, 100, 513, 5000])
@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (512, 256), (500, 130)])
def test_inverse_stft_equals_torch_istft(n_fft: int, hop_length: int, samples: int) -> None:
    window = torch.hann_window(n_fft)
    shape = (2, n_fft // 2 + 1, samples // hop_length + 3)
    spectra = torch.complex(torch.randn(shape), torch.randn(shape))
    expected = torch.istft(spectra, n_fft, hop_length, window=window, length=samples)
    found = inverse_stft(spectra, window, hop_length, samples)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 300, 5001])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("window", ["hann", "rectangular"])
def test_the_inverse_restores_waveforms(window: Window, normalized: bool, samples: int) -> None:
    transform = STFT(512, 128, window, normalized)
    waveform = torch.randn(2, 3, samples)
    spectrum = transform(waveform)
    assert spectrum.shape == (2, 3, 257, samples // 128 + 1)
    assert torch.allclose(transform.inverse(spectrum, samples), waveform, atol=1e-5)


def test_normalized_spectra_are_divided_by_the_root_of_the_length() -> None:
    waveform = torch.randn(2000)
    plain, scaled = STFT(512, 128)(waveform), STFT(512, 128, normalized=True)(waveform)
    assert torch.allclose(scaled * 512**0.5, plain, atol=1e-4)
