"""Inverse STFT of exported programs."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.base.spectrogram import inverse_stft


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
