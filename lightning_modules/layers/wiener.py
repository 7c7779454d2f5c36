"""Multichannel Wiener filter: refines estimates by expectation-maximisation.

Each source is a Gaussian with a power v per bin and frame and a spatial covariance R per bin
(Duong, Vincent and Gribonval 2010, "Under-determined reverberant audio source separation using a
full-rank spatial covariance model"). Both are re-estimated from the current estimates in the
simplified form of Nugraha, Liutkus and Vincent 2016 ("Multichannel audio source separation with
deep neural networks", section III), as in ``norbert`` and ``openunmix``:

    v_j = mean over channels of |y_j|^2
    R_j = sum over frames of y_j y_j^H / (eps + sum over frames of v_j)
    y_j = v_j R_j (sum over sources of v R + sqrt(eps) I)^-1 x
"""

from __future__ import annotations

import torch
from torch import Tensor

# Mixtures with louder bins are scaled down to this magnitude relative to the noise.
_LOUDEST = 10.0
# Fits into the CPU's cache: twice as fast as all bins at once, and in less memory.
_BINS_AT_ONCE = 128


def wiener(
    estimates: Tensor,
    mixture: Tensor,
    iterations: int = 1,
    *,
    residual: bool = False,
    eps: float = 1e-10,
    frames: int | None = 300,
) -> Tensor:
    """Refine estimates of the sources' spectra.

    Computed in double precision where the device supports it: with one loud source the mixture's
    covariance is nearly singular. Non-finite bins become NaN and do not affect others; silence
    stays silence.

    Args:
        estimates: First estimates, complex, shape (B, S, C, F, N).
        mixture: Complex spectrum, shape (B, C, F, N).
        iterations: Number of iterations; 0 returns the estimates.
        residual: Add the mixture minus the estimates as a source that is not returned. Needed if
            the sources do not add up to the mixture.
        eps: Power of the noise; multiplied by (m / 10)^2 in an excerpt whose loudest bin has a
            magnitude m above 10.
        frames: Length of the excerpts that are filtered independently, so that sources may move.
            None filters all frames at once.

    Returns:
        Refined estimates, shape (B, S, C, F, N), type of ``estimates``.
    """
    if iterations < 1:
        return estimates
    sources = estimates.shape[1]
    if residual:
        rest = mixture[:, None] - estimates.sum(1, keepdim=True)
        estimates = torch.cat([estimates, rest], 1)
    refined = torch.empty_like(estimates)
    count, length = mixture.shape[-1], frames or mixture.shape[-1]
    for start in range(0, count, length):
        y, x = estimates[..., start : start + length], mixture[..., start : start + length]
        loudest = torch.where(x.isfinite(), x, 0).abs().amax((1, 2, 3))  # (B,)
        loudness = (loudest / _LOUDEST).clamp_min(1).square()[:, None, None]
        for low in range(0, mixture.shape[2], _BINS_AT_ONCE):
            bins = slice(low, low + _BINS_AT_ONCE)
            refined[..., bins, start : start + length] = _refine(
                y[..., bins, :], x[..., bins, :], iterations, eps * loudness, eps**0.5 * loudness
            )
    return refined[:, :sources]


def _refine(y: Tensor, x: Tensor, iterations: int, least: Tensor, noise: Tensor) -> Tensor:
    """Iterate on y (B, S, C, F, N) and x (B, C, F, N); least power and noise (B, 1, 1)."""
    # (B, F, N); isfinite of complex numbers would compute absolute values.
    known = torch.view_as_real(x).isfinite().all(-1).all(1)
    known &= torch.view_as_real(y).isfinite().all(-1).all(2).all(1)
    dtype = y.dtype
    x = torch.where(known[:, None], x, 0)
    y = torch.where(known[:, None, None], y, 0)
    # Batches of small matrices per bin: (B, F, C, N) and (B, F, S, C, N).
    double = torch.complex64 if x.device.type == "mps" else torch.complex128
    x = x.transpose(1, 2).contiguous().to(double)
    y = y.permute(0, 3, 1, 2, 4).contiguous().to(double)
    for _ in range(iterations):
        powers = (y.real.square() + y.imag.square()).mean(3)  # (B, F, S, N)
        sums = least + powers.sum(-1)  # (B, F, S)
        covariances = y @ y.mH / sums[..., None, None]  # (B, F, S, C, C)
        solution = _solve(_mixture_covariance(covariances, powers, noise), x)
        # v R C^-1 x, evaluated from the right without forming a filter matrix.
        y = (covariances.flatten(2, 3) @ solution).unflatten(2, covariances.shape[2:4])
        torch.view_as_real(y).mul_(powers[:, :, :, None, :, None])
    refined = y.permute(0, 2, 3, 1, 4).to(dtype)
    return refined.masked_fill_(~known[:, None, None], torch.nan)


def _mixture_covariance(covariances: Tensor, powers: Tensor, noise: Tensor) -> Tensor:
    """C, from (B, F, S, C, C) and (B, F, S, N), as (B, F, C, C, N)."""
    # A real product costs half as much: (B, F, 2 C C, S) by (B, F, S, N).
    planes = torch.view_as_real(covariances).flatten(3).mT @ powers
    real, imaginary = planes.unflatten(2, (*covariances.shape[3:], 2)).unbind(4)
    real.diagonal(dim1=2, dim2=3).add_(noise[..., None])
    return torch.complex(real, imaginary)


def _solve(matrices: Tensor, x: Tensor) -> Tensor:
    """Solve M z = x for Hermitian M (B, F, C, C, N) and x (B, F, C, N)."""
    if x.shape[2] == 1:
        return x / matrices[:, :, 0]
    if x.shape[2] > 2:
        # (B, F, C, C, N) and (B, F, C, N) -> (B, F, N, C, C or 1)
        solved: Tensor = torch.linalg.solve(matrices.movedim(-1, 2), x.mT[..., None])
        return solved[..., 0].mT
    first, second = matrices[:, :, 0, 0].real, matrices[:, :, 1, 1].real
    cross = matrices[:, :, 0, 1]
    determinant = first * second - cross.real.square() - cross.imag.square()
    left, right = x.unbind(2)
    solution = torch.stack([second * left - cross * right, first * right - cross.conj() * left], 2)
    return solution / determinant[:, :, None]
