"""Multichannel Wiener filter: estimates refined by expectation-maximisation.

Each source is a Gaussian with a power v for each bin and frame and a spatial covariance R
for each bin (Duong, Vincent and Gribonval 2010, "Under-determined reverberant audio source
separation using a full-rank spatial covariance model"). Both are re-estimated from the
estimates at hand, in the simplified way of Nugraha, Liutkus and Vincent 2016 ("Multichannel
audio source separation with deep neural networks", section III), as ``norbert`` and
``openunmix`` do:

    v_j = mean over channels of |y_j|^2
    R_j = sum over frames of y_j y_j^H / (eps + sum over frames of v_j)
    y_j = v_j R_j (sum over sources of v R + sqrt(eps) I)^-1 x
"""

from __future__ import annotations

import torch
from torch import Tensor

# The noise is meant for a mixture whose loudest bin has this magnitude at most.
_LOUDEST = 10.0
# So many fit into a processor's cache: twice as fast as all at once, and in less memory.
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

    Computed in double precision where the device has it: with one loud source the mixture's
    covariance is nearly singular. A bin and frame that is NaN or infinite stays so, and has
    no say in others; silence comes out as silence.

    Args:
        estimates: First estimates, complex, shape (B, S, C, F, N).
        mixture: Complex spectrum, shape (B, C, F, N).
        iterations: Number of iterations; 0 returns the estimates.
        residual: Let what the estimates leave of the mixture take part as one more source,
            which is not returned. Needed where the sources are not all of the mixture.
        eps: Power of the noise that is taken out; in an excerpt whose loudest bin has a magnitude
            m above 10 it is (m / 10)^2 times that.
        frames: Length of the excerpts that are filtered by themselves; sources may move from
            one to the next. None takes all frames at once.

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
    # (B, F, N); isfinite of complex numbers would take roots.
    known = torch.view_as_real(x).isfinite().all(-1).all(1)
    known &= torch.view_as_real(y).isfinite().all(-1).all(2).all(1)
    dtype = y.dtype
    x = torch.where(known[:, None], x, 0)
    y = torch.where(known[:, None, None], y, 0)
    # Small matrices of channels or sources by frames, a batch of them for all bins:
    # (B, F, C, N) and (B, F, S, C, N).
    double = torch.complex64 if x.device.type == "mps" else torch.complex128
    x = x.transpose(1, 2).contiguous().to(double)
    y = y.permute(0, 3, 1, 2, 4).contiguous().to(double)
    for _ in range(iterations):
        powers = (y.real.square() + y.imag.square()).mean(3)  # (B, F, S, N)
        sums = least + powers.sum(-1)  # (B, F, S)
        covariances = y @ y.mH / sums[..., None, None]  # (B, F, S, C, C)
        solution = _solve(_mixture_covariance(covariances, powers, noise), x)
        # v R C^-1 x, from the right: no filter matrix is ever formed.
        y = (covariances.flatten(2, 3) @ solution).unflatten(2, covariances.shape[2:4])
        torch.view_as_real(y).mul_(powers[:, :, :, None, :, None])
    refined = y.permute(0, 2, 3, 1, 4).to(dtype)
    return refined.masked_fill_(~known[:, None, None], torch.nan)


def _mixture_covariance(covariances: Tensor, powers: Tensor, noise: Tensor) -> Tensor:
    """C, from (B, F, S, C, C) and (B, F, S, N), as (B, F, C, C, N)."""
    # A real product has half the cost: (B, F, 2 C C, S) by (B, F, S, N).
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
