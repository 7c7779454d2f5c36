"""Block Toeplitz systems, against dense solutions."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import toeplitz

Array = NDArray[np.float64]
EPS = np.finfo(np.float64).eps


def correlations(signals: Array, estimates: Array, taps: int) -> tuple[Array, Array]:
    """r_ik[l] and d_qi[l] of (P, T) and (Q, T), sample by sample."""
    samples = signals.shape[1]
    delayed = np.stack([np.pad(signals, ((0, 0), (lag, 0)))[:, :samples] for lag in range(taps)])
    return tuple(np.einsum("it,lkt->ikl", some, delayed) for some in (signals, estimates))


def system(
    signals: int = 3, taps: int = 9, samples: int = 400, seed: int = 0
) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    references = np.cumsum(generator.standard_normal((signals, samples)), axis=1)
    estimates = references[:2] + generator.standard_normal((2, samples))
    return correlations(references, estimates, taps)


def solve(lags: Array, right: Array) -> tuple[Array, Array]:
    solution = toeplitz.solve(lags, right)
    return solution.filters, solution.condition


def test_dense_matrix_equals_products_of_delayed_signals() -> None:
    generator = np.random.default_rng(1)
    signals = generator.standard_normal((2, 50))
    taps = 4
    lags, _ = correlations(signals, signals, taps)
    delayed = np.stack([np.pad(x, (tap, taps - 1 - tap)) for x in signals for tap in range(taps)])
    np.testing.assert_allclose(toeplitz.dense(lags), delayed @ delayed.T, atol=1e-12)


@pytest.mark.parametrize(("signals", "taps"), [(1, 1), (1, 7), (3, 1), (3, 2), (3, 9)])
def test_solution_and_condition_equal_dense_ones(signals: int, taps: int) -> None:
    systems = [system(signals, taps, seed=seed) for seed in range(3)]
    lags, right = (np.stack(arrays) for arrays in zip(*systems, strict=True))
    filters, condition = solve(lags, right)
    for one in range(3):
        matrix = toeplitz.dense(lags[one])
        expected = np.linalg.solve(matrix, right[one].reshape(len(right[one]), -1).T).T
        np.testing.assert_allclose(filters[one], expected.reshape(right[one].shape), rtol=1e-6)
        scale = 1 / np.sqrt(np.diagonal(matrix))
        eigenvalues = np.linalg.eigvalsh(matrix * scale * scale[:, None])
        assert condition[one] == pytest.approx(np.mean(1 / eigenvalues), rel=1e-3)


def test_silent_signal_has_zero_filters() -> None:
    lags, right = system()
    lags[1] = lags[:, 1] = right[:, 1] = 0
    filters, condition = solve(lags[None], right[None])
    assert not filters[0, :, 1].any()
    rest = [0, 2]
    alone, _ = solve(lags[None][:, rest][:, :, rest], right[None][:, :, rest])
    np.testing.assert_allclose(filters[:, :, rest], alone, rtol=1e-7)
    assert condition[0] < 1e9


def test_diagonal_is_increased_by_machine_epsilon() -> None:
    lags, right = system(signals=1, taps=1)
    quiet = EPS / lags[0, 0, 0]
    filters, _ = solve(quiet * lags[None], quiet * right[None])
    np.testing.assert_allclose(filters[0], right / lags / 2)


def test_singular_systems_are_solved_with_high_condition() -> None:
    """Copies of a signal: filters are not unique, what they make of the signals is."""
    lags, right = system()
    doubled = np.array([0, 1, 1])
    sound = np.stack([lags, lags[np.ix_(doubled, doubled)]])
    wanted = np.stack([right, right[:, doubled]])
    filters, condition = solve(sound, wanted)
    np.testing.assert_allclose(filters[0], solve(lags[None], right[None])[0][0], rtol=1e-9)
    assert condition[0] < 1e9
    assert condition[1] > 1e10
    alone, _ = solve(lags[None, :2, :2], right[None, :, :2])
    together = np.stack([filters[1, :, 0], filters[1, :, 1:].sum(axis=1)], axis=1)
    # To what rounding leaves of a condition above 1e10.
    np.testing.assert_allclose(together, alone[0], rtol=1e-5, atol=1e-5)


def test_dense_solution_after_breakdown_of_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    lags, right = system()
    expected, _ = solve(lags[None], right[None])
    inverse = np.linalg.inv

    def broken(matrices: Array) -> Array:
        raise np.linalg.LinAlgError("singular")

    def inaccurate(matrices: Array) -> Array:
        wrong: Array = 3 * inverse(matrices).astype(np.float64)
        return wrong

    for fault in (broken, inaccurate):
        monkeypatch.setattr(np.linalg, "inv", fault)
        filters, condition = solve(np.stack([lags, lags]), np.stack([right, right]))
        np.testing.assert_allclose(filters, np.concatenate([expected, expected]), rtol=1e-8)
        assert condition.tolist() == [1 / toeplitz.RIDGE] * 2


def test_least_squares_solution_of_exactly_singular_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(matrices: Array) -> Array:
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(np.linalg, "inv", broken)
    filters, _ = solve(np.full((1, 2, 2, 1), 4.0), np.full((1, 1, 2, 1), 2.0))
    np.testing.assert_allclose(filters, 0.25)
