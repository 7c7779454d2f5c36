"""Block Toeplitz systems: the normal equations of multichannel least-squares filters.

The filters c of P signals x_k that best approximate a signal e solve T c = d with

    T[(i, a), (k, b)] = sum_n x_i[n - a] x_k[n - b] = r_ik[b - a],   d_i[a] = sum_n e[n] x_i[n - a]

for taps a, b = 0 ... F - 1. T depends only on a - b, so the P F x P F matrix is never formed:

* A recursion over the number of taps solves T with a small ridge in O(F^2): Whittle 1963, "On the
  fitting of multivariate autoregressions", Biometrika 50; Akaike 1973, "Block Toeplitz matrix
  inversion", SIAM J. Appl. Math. 24.
* Its last predictors give the inverse of that matrix as products of triangular Toeplitz matrices,
  applied by FFT: Gohberg and Heinig 1974; Kailath and Chun 1994, "Generalized Gohberg-Semencul
  formulas for matrix inversion".
* Conjugate gradients on T, preconditioned with that inverse, remove the effect of the ridge in one
  or two steps (Hestenes and Stiefel 1952).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_Operator = Callable[[Array], Array]

# The recursion needs T to be positive definite beyond rounding errors.
RIDGE = 1e-13
_MAX_STEPS = 12
_TOLERANCE = 1e-26  # energy of the error relative to that of the solution
_MAX_RESIDUAL = 1e-8


class Solution(NamedTuple):
    """Filters and the condition of their systems.

    Attributes:
        filters: Solutions c, shape (systems, right-hand sides, P, F).
        condition: Mean of T's eigenvalues times the mean of their inverses, with each signal
            scaled to energy 1, shape (systems,); at most about 1 / `RIDGE`.
    """

    filters: Array
    condition: Array


def solve(correlations: Array, right: Array) -> Solution:
    """Solve (T + eps I) c = d for several systems and right-hand sides at once.

    museval adds eps = 2.2e-16 to the diagonal, whatever the signals' level. This makes systems with
    silent channels solvable, so it is part of the definition.

    Args:
        correlations: r_ik[l] = sum_n x_i[n] x_k[n - l], shape (systems, P, P, F). Finite.
        right: d, shape (systems, right-hand sides, P, F). Finite.
    """
    lags = correlations.copy()
    diagonal = np.arange(lags.shape[1])
    lags[..., 0] = (lags[..., 0] + lags[..., 0].swapaxes(1, 2)) / 2
    lags[:, diagonal, diagonal, 0] += np.finfo(np.float64).eps
    # Each signal is scaled to energy 1, so that the ridge does not dominate quiet ones.
    scale = 1 / np.sqrt(lags[:, diagonal, diagonal, 0])
    lags *= scale[:, :, None, None] * scale[:, None, :, None]
    filters, condition = _solve_scaled(lags, right * scale[:, None, :, None])
    return Solution(filters * scale[:, None, :, None], condition)


def _solve_scaled(lags: Array, right: Array) -> tuple[Array, Array]:
    """Solve by recursion, or densely as museval does where the recursion breaks down."""
    filters, condition = np.empty_like(right), np.full(len(lags), 1 / RIDGE)
    solved = np.zeros(len(lags), bool)
    try:
        with np.errstate(all="ignore"):  # the residual shows most breakdowns
            start, inverse, condition = _solve_nearby(lags, right)
            multiply = _multiplication(lags)
            filters = _refine(start, right, multiply, inverse)
            residual = np.abs(right - multiply(filters)).max(axis=(1, 2, 3))
            solved = residual <= _MAX_RESIDUAL * np.abs(right).max(axis=(1, 2, 3))
    except np.linalg.LinAlgError:  # one is singular: solve them separately
        if len(lags) > 1:
            parts = [_solve_scaled(lags[[row]], right[[row]]) for row in range(len(lags))]
            every, conditions = zip(*parts, strict=True)
            return np.concatenate(every), np.concatenate(conditions)
    for system in np.flatnonzero(~solved):
        filters[system] = _solve_dense(lags[system], right[system])
    return filters, np.where(solved, condition, 1 / RIDGE)


def _refine(start: Array, right: Array, multiply: _Operator, precondition: _Operator) -> Array:
    """Conjugate gradients for T c = d from `start`, for all systems and right-hand sides."""

    def dot(left: Array, other: Array) -> Array:
        product: Array = np.einsum("smpf,smpf->sm", left, other)[..., None, None]
        return product

    solution = start
    residual = right - multiply(solution)
    direction = step = precondition(residual)
    error = dot(residual, step)  # energy of the error of the projection
    energy = dot(right, solution)
    for _ in range(_MAX_STEPS):
        active = error > _TOLERANCE * energy
        if not active.any():
            break
        moved = multiply(direction)
        curvature = dot(direction, moved)
        length = np.where(active & (curvature > 0), error / curvature, 0)
        solution = solution + length * direction
        residual = residual - length * moved
        step = precondition(residual)
        previous, error = error, dot(residual, step)
        direction = step + np.where(previous > 0, error / previous, 0) * direction
    return solution


def _solve_nearby(lags: Array, right: Array) -> tuple[Array, _Operator, Array]:
    """Solve T + ridge by Whittle's recursion.

    With Gamma[l] = T's block at a - b = l, the forward predictor U and the backward predictor V
    of n taps satisfy T U = [E_f, 0 ... 0] and T V = [0 ... 0, E_b], U and V having the unit
    matrix first and last. One more tap, with D = sum_t Gamma[n - t] U[t]:

        U <- [U, 0] - [0, V] E_b^-1 D        E_f <- E_f - D' E_b^-1 D
        V <- [0, V] - [U, 0] E_f^-1 D'       E_b <- E_b - D E_f^-1 D'
        c <- [c, 0] + V E_b^-1 (d[n] - sum_t Gamma[n - t] c[t])

    Returns:
        The solution, the inverse of T + ridge as an operator, and the condition.
    """
    systems, signals, _, taps = lags.shape
    # [Gamma[F-1] ... Gamma[1] Gamma[0]] side by side, Gamma[l] = lags[..., l]'
    row = lags[..., ::-1].transpose(0, 2, 3, 1).reshape(systems, signals, taps * signals)
    wanted = np.ascontiguousarray(right.transpose(0, 3, 2, 1))  # (systems, F, P, columns)

    # U and c fill their arrays from the top, V from the bottom.
    forward = np.zeros((systems, taps * signals, signals))
    backward = np.zeros_like(forward)
    solution = np.zeros((systems, taps * signals, len(right[0])))
    errors = np.empty((2, systems, signals, signals))  # E_f, E_b
    errors[:] = lags[..., 0] + RIDGE * np.eye(signals)
    overhangs = np.empty_like(errors)  # D', D
    inverses = np.linalg.inv(errors)
    forward[:, :signals] = backward[:, -signals:] = np.eye(signals)
    solution[:, :signals] = inverses[0] @ wanted[:, 0]
    for tap in range(1, taps):
        known, grown = tap * signals, (tap + 1) * signals
        past = row[:, :, -grown:-signals]
        overhangs[1] = past @ forward[:, :known]
        overhangs[0] = overhangs[1].swapaxes(1, 2)
        gains = inverses @ overhangs
        ahead, behind = forward[:, :grown], backward[:, -grown:]
        change = behind @ gains[1]
        behind -= ahead @ gains[0]
        ahead -= change
        errors -= overhangs @ gains[::-1]
        errors = (errors + errors.swapaxes(2, 3)) / 2
        inverses = np.linalg.inv(errors)
        missing = wanted[:, tap] - past @ solution[:, :known]
        solution[:, :grown] += behind @ (inverses[1] @ missing)

    shape = (systems, taps, signals, -1)
    shifted = np.zeros_like(forward)
    shifted[:, signals:] = backward[:, :-signals]
    factors = [(forward.reshape(shape), inverses[0]), (shifted.reshape(shape), -inverses[1])]
    filters = np.ascontiguousarray(solution.reshape(shape).transpose(0, 3, 2, 1))
    return filters, _inversion(factors), _condition(factors)


def _inversion(factors: list[tuple[Array, Array]]) -> _Operator:
    """T^-1 = L(U) E_f^-1 L(U)' - L(zV) E_b^-1 L(zV)', L(.) lower triangular block Toeplitz."""
    taps = factors[0][0].shape[1]
    n_fft = 2 * taps
    spectra = [np.fft.rfft(blocks, n_fft, axis=1) for blocks, _ in factors]

    def apply(vectors: Array) -> Array:
        # (systems, columns, P, F) -> (systems, frequencies, P, columns), where matrices multiply
        spectrum = np.ascontiguousarray(np.fft.rfft(vectors, n_fft).transpose(0, 3, 2, 1))
        total = np.zeros_like(spectrum)
        for (_, inverse), triangle in zip(factors, spectra, strict=True):
            inner = np.fft.irfft(triangle.conj().swapaxes(2, 3) @ spectrum, n_fft, axis=1)
            outer = np.fft.rfft(inverse[:, None] @ inner[:, :taps], n_fft, axis=1)
            total += triangle @ outer
        vectors = np.fft.irfft(total, n_fft, axis=1)[:, :taps].transpose(0, 3, 2, 1)
        return vectors

    return apply


def _condition(factors: list[tuple[Array, Array]]) -> Array:
    """Mean eigenvalue of T^-1, from the same formula; T's own mean is 1 as signals are scaled."""
    _, taps, signals, _ = factors[0][0].shape
    left = np.arange(taps, 0, -1.0)  # number of diagonal blocks that contain each tap's block
    trace = np.zeros(len(factors[0][0]))
    for blocks, inverse in factors:
        trace += np.einsum("t,stij,stij->s", left, blocks @ inverse[:, None], blocks)
    return np.where(trace > 0, np.minimum(trace / (taps * signals), 1 / RIDGE), 1 / RIDGE)


def _multiplication(lags: Array) -> _Operator:
    """T as an operator, by circular convolution of length 2 F."""
    systems, signals, _, taps = lags.shape
    n_fft = 2 * taps
    column = np.zeros((systems, signals, signals, n_fft))
    column[..., :taps] = lags.swapaxes(1, 2)
    column[..., taps + 1 :] = lags[..., :0:-1]
    spectrum = np.ascontiguousarray(np.fft.rfft(column).transpose(0, 3, 1, 2))

    def apply(vectors: Array) -> Array:
        transformed = np.ascontiguousarray(np.fft.rfft(vectors, n_fft).transpose(0, 3, 2, 1))
        product = np.fft.irfft(spectrum @ transformed, n_fft, axis=1)[:, :taps]
        vectors = product.transpose(0, 3, 2, 1)
        return vectors

    return apply


def dense(lags: Array) -> Array:
    """Form T, shape (P F, P F), signal by signal, from r_ik[l], shape (P, P, F)."""
    signals, _, taps = lags.shape
    both_sides = np.concatenate([lags.swapaxes(0, 1)[..., :0:-1], lags], axis=-1)
    # T[(i, a), (k, b)] = r_ik[b - a]
    tap = np.arange(taps)
    matrix = both_sides[..., tap[None, :] - tap[:, None] + taps - 1]
    return matrix.transpose(0, 2, 1, 3).reshape(signals * taps, signals * taps)


def _solve_dense(lags: Array, right: Array) -> Array:
    """Solve as museval does, for numerically singular matrices, in (P F)^3 operations."""
    matrix = dense(lags)
    columns = right.reshape(len(right), -1).T
    try:
        solution = np.linalg.solve(matrix, columns)
    except np.linalg.LinAlgError:
        solution = np.linalg.lstsq(matrix, columns, rcond=None)[0]
    filters: Array = np.asarray(solution, np.float64).T.reshape(right.shape)
    return filters
