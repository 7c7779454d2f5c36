"""The systems of `toeplitz` on tensors: formed, and factorised in batches.

A recursion over taps would keep a GPU waiting for hundreds of small steps; a dense Cholesky
factorisation with the same ridge keeps it busy, and the same conjugate gradients follow.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.evaluation.bss_eval import toeplitz

NUMBERS = 2**28  # in the matrices of systems that are solved at once: 2 GiB


def solve(correlations: Tensor, right: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Solve (T + eps I) c = d for several systems and right-hand sides at once.

    Args:
        correlations: r_ik[l] = sum_n x_i[n] x_k[n - l], shape (systems, P, P, F).
        right: d, shape (systems, right-hand sides, P, F).

    Returns:
        Solutions, in the shape of `right`, NaN where something was not finite; and the condition
        of each system as in `toeplitz.Solution`, estimated.
    """
    systems, _, signals, taps = right.shape
    filters = torch.full_like(right, math.nan)
    condition = np.full(systems, np.nan)
    finite = torch.isfinite(correlations).all(dim=-1).all(dim=-1).all(dim=-1)
    kept = torch.isfinite(right).all(dim=-1).all(dim=-1)[..., None, None]
    wanted = torch.where(kept, right, 0)
    rows = torch.nonzero(finite)[:, 0]
    if not len(rows):
        return filters, condition
    for part in rows.split(max(1, NUMBERS // (signals * taps) ** 2)):
        filters[part], condition[part.cpu().numpy()] = _solve_dense(
            correlations[part], wanted[part]
        )
    return torch.where(kept, filters, math.nan), condition


def _solve_dense(correlations: Tensor, right: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
    """Cholesky with a ridge, then conjugate gradients on T itself."""
    systems, columns, signals, taps = right.shape
    lags = correlations.clone()
    lags[..., 0] = (lags[..., 0] + lags[..., 0].mT) / 2
    lags[..., 0].diagonal(dim1=1, dim2=2).add_(torch.finfo(torch.float64).eps)
    scale = lags[..., 0].diagonal(dim1=1, dim2=2).rsqrt()
    lags = lags * scale[:, :, None, None] * scale[:, None, :, None]
    # T[(i, a), (k, b)] = r_ik[b - a]
    both_sides = torch.cat([lags.transpose(1, 2)[..., 1:].flip(-1), lags], dim=-1)
    tap = torch.arange(taps, device=lags.device)
    matrix = both_sides[..., tap[None, :] - tap[:, None] + taps - 1]
    matrix = matrix.transpose(2, 3).reshape(systems, signals * taps, signals * taps)
    scaled = (right * scale[:, None, :, None]).reshape(systems, columns, -1).mT

    ridged = matrix.clone()
    ridged.diagonal(dim1=1, dim2=2).add_(toeplitz.RIDGE)
    factor, broken = torch.linalg.cholesky_ex(ridged)
    del ridged
    solution = _refine(matrix, factor, scaled)
    residual = (scaled - matrix @ solution).abs().amax(dim=(1, 2))
    broken |= ~(residual <= toeplitz.LARGEST_RESIDUAL * scaled.abs().amax(dim=(1, 2)))
    condition = _condition(factor)
    filters = solution.mT.reshape(right.shape) * scale[:, None, :, None]
    for system in torch.nonzero(broken)[:, 0].tolist():
        alone = toeplitz.solve(correlations[[system]].cpu().numpy(), right[[system]].cpu().numpy())
        filters[system] = torch.from_numpy(alone.filters[0]).to(filters)
        condition[system] = alone.condition[0]
    return filters, condition


def _refine(matrix: Tensor, factor: Tensor, right: Tensor) -> Tensor:
    """The steps of `toeplitz`; all of shape (B, P F, .)."""
    solution = torch.cholesky_solve(right, factor)
    residual = right - matrix @ solution
    direction = step = torch.cholesky_solve(residual, factor)
    error = (residual * step).sum(dim=1, keepdim=True)
    energy = (right * solution).sum(dim=1, keepdim=True)
    for _ in range(toeplitz.MOST_STEPS):
        unfinished = error > toeplitz.ENOUGH * energy
        if not unfinished.any():
            break
        moved = matrix @ direction
        curvature = (direction * moved).sum(dim=1, keepdim=True)
        length = torch.where(unfinished & (curvature > 0), error / curvature, 0)
        solution = solution + length * direction
        residual = residual - length * moved
        step = torch.cholesky_solve(residual, factor)
        previous, error = error, (residual * step).sum(dim=1, keepdim=True)
        direction = step + torch.where(previous > 0, error / previous, 0) * direction
    return solution


def _condition(factor: Tensor) -> NDArray[np.float64]:
    """Mean eigenvalue of the inverse, from random signs: Hutchinson 1990."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (factor.shape[-1], 8), generator=generator).to(factor) * 2 - 1
    halves = torch.linalg.solve_triangular(factor, signs, upper=False)
    mean = halves.square().mean(dim=(1, 2)).cpu().numpy()
    condition: NDArray[np.float64] = np.where(np.isfinite(mean), mean, np.inf)
    return np.minimum(condition, 1 / toeplitz.RIDGE)
