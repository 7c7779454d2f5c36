"""The Wiener filter against ``norbert`` and ``openunmix``."""

from __future__ import annotations

import norbert
import numpy as np
import openunmix.filtering
import pytest
import torch
from torch import Tensor

from lightning_modules.layers.masks import masks
from lightning_modules.layers.wiener import wiener


def spectra(channels: int, scale: float, silence: bool = True) -> tuple[Tensor, Tensor]:
    """Magnitudes (1, S, C, F, N) and a mixture (1, C, F, N)."""
    torch.manual_seed(0)
    magnitudes = scale * torch.rand(1, 4, channels, 30, 50, dtype=torch.float64)
    mixture = scale * torch.randn(1, channels, 30, 50, dtype=torch.complex128)
    magnitudes[:, 0, :, :, 10:20] = 0
    if silence:  # in a bin, and in a frame
        mixture[:, :, 5], magnitudes[:, :, :, 5] = 0, 0
        mixture[..., 30], magnitudes[..., 30] = 0, 0
    return magnitudes, mixture


def first(magnitudes: Tensor, mixture: Tensor, softmask: bool) -> Tensor:
    """First estimates as in ``SpectrogramSeparator`` with the mask ``ratio`` or ``none``."""
    if softmask:
        return masks(magnitudes, "ratio") * mixture[:, None]
    return magnitudes * torch.sgn(mixture)[:, None]


@pytest.mark.parametrize("eps", [1e-10, None])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_filter_agrees_with_norbert(
    eps: float | None, softmask: bool, channels: int, iterations: int, scale: float
) -> None:
    magnitudes, mixture = spectra(channels, scale)
    theirs = norbert.wiener(
        magnitudes[0].permute(3, 2, 1, 0).numpy(),
        mixture[0].permute(2, 1, 0).numpy().copy(),  # norbert scales it in place
        iterations,
        use_softmask=softmask,
        eps=eps,
    )
    ours = wiener(
        first(magnitudes, mixture, softmask),
        mixture,
        iterations,
        eps=np.finfo(np.float64).eps if eps is None else eps,
    )
    # norbert adds eps before inverting 1 x 1 matrices, besides the noise of sqrt(eps).
    tolerance = 1e-5 if channels == 1 else 1e-9
    assert np.abs(ours[0].permute(3, 2, 1, 0).numpy() - theirs).max() < tolerance * scale


@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_filter_agrees_with_openunmix(softmask: bool, residual: bool, channels: int) -> None:
    """Up to its single-precision pi; its residual treats silence as 1."""
    magnitudes, mixture = spectra(channels, 40.0, silence=not residual)
    theirs = openunmix.filtering.wiener(
        magnitudes[0].permute(3, 2, 1, 0),
        torch.view_as_real(mixture[0].permute(2, 1, 0)).contiguous(),
        2,
        softmask=softmask,
        residual=residual,
    )
    # (N, F, C, 2, S) -> (S, C, F, N)
    theirs = torch.view_as_complex(theirs.permute(4, 2, 1, 0, 3).contiguous())
    ours = wiener(first(magnitudes, mixture, softmask), mixture, 2, residual=residual)
    assert (ours[0] - theirs[:4]).abs().max() < 1e-6 * theirs.abs().max()
