"""Correlations and energies, against sample-by-sample delays and filters."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import projection
from lightning_modules.evaluation.bss_eval.correlations import Correlator, fft_length, power_of_two

Array = NDArray[np.float64]


def signals(sources: int = 2, samples: int = 500, channels: int = 2) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    references = generator.standard_normal((sources, samples, channels))
    return references, references + 0.3 * generator.standard_normal(references.shape)


def rows(waveforms: Array) -> Array:
    """(S, T, C) to (P, T)."""
    sources, samples, channels = waveforms.shape
    return waveforms.transpose(0, 2, 1).reshape(sources * channels, samples)


def direct(present: Array, delayed: Array, taps: int) -> Array:
    """sum_n y[n] x[n - l], sample by sample; (Q, T) and (P, T) to (Q, P, F)."""
    samples = present.shape[1]
    return np.array(
        [
            [[y[lag:] @ x[: max(0, samples - lag)] for lag in range(taps)] for x in delayed]
            for y in present
        ]
    )


@pytest.mark.parametrize("longest", [3, 100, 500])
@pytest.mark.parametrize("taps", [1, 2, 40])
@pytest.mark.parametrize(("start", "stop"), [(0, 500), (17, 480), (9, 12), (30, 30)])
def test_correlations_and_energies_of_sections(
    longest: int, taps: int, start: int, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.evaluation.bss_eval.correlations._MIN_FFT", 2)
    references, estimates = signals()
    correlator = Correlator(references, estimates, taps, longest)
    correlator.section(100, 400)  # must not affect the next call
    lags, energies = correlator.section(start, stop)
    reference, estimate = references[:, start:stop], estimates[:, start:stop]
    both = np.concatenate([rows(reference), rows(estimate)])
    np.testing.assert_allclose(lags, direct(both, rows(reference), taps), atol=1e-10)
    expected = [np.sum(x**2, axis=(1, 2)) for x in (reference, estimate, estimate - reference)]
    np.testing.assert_allclose(energies, expected, atol=1e-10)
    assert correlator.result_bytes == lags.nbytes


@pytest.mark.parametrize("cuts", [[0, 200, 500], [0, 5, 7, 7, 300, 500]])
@pytest.mark.parametrize("taps", [1, 40])
def test_sections_and_borders_add_up(cuts: list[int], taps: int) -> None:
    correlator = Correlator(*signals(), taps, 500)
    whole, _ = correlator.section(0, 500)
    sections = list(itertools.pairwise(cuts))
    total = correlator.borders(sections[1:]) + sum(
        correlator.section(*ends)[0] for ends in sections
    )
    np.testing.assert_allclose(total, whole, atol=1e-10)


def test_fft_lengths() -> None:
    assert [power_of_two(number) for number in (0, 1, 2, 3, 4, 5)] == [2, 2, 2, 4, 4, 8]
    assert fft_length(44100, 512) == 2048
    assert fft_length(100, 512) == 1024
    assert fft_length(10**6, 2) == 2048


def filtered(references: Array, filters: Array, taps: int) -> Array:
    """Outputs (C, L + F - 1) of filters (C, P, F) on references (S, L, C)."""
    return np.array(
        [
            sum(np.convolve(x, h) for x, h in zip(rows(references), output, strict=True))
            for output in filters
        ]
    )


@pytest.mark.parametrize("sources", [1, 2])
def test_energies_equal_those_of_filtered_signals(sources: int) -> None:
    references, estimates = signals(sources)
    taps, channels = 6, 2
    correlator = Correlator(references, estimates, taps, 500)
    filters = projection.fit(correlator.section(0, 500)[0], sources, np.array([], np.intp))
    start, stop = 90, 310
    lags, squares = correlator.section(start, stop)
    energies, inaccurate = projection.frame_energies(
        lags[None], squares[None], projection.energy_weights(filters)
    )
    assert energies.shape == (projection.N_ENERGIES, 1, sources)
    assert not inaccurate.any()
    for source in range(sources):
        frame, estimate = references[:, start:stop], estimates[source, start:stop]
        pad = ((0, 0), (0, taps - 1))
        target, output = np.pad(frame[source].T, pad), np.pad(estimate.T, pad)
        p1 = filtered(frame[source : source + 1], filters.own[source], taps)
        p2 = filtered(frame, filters.all[source], taps)
        parts = (p1, p1 - target, p2 - p1, p2, output - p2)
        expected = [np.sum(part**2) for part in parts]
        np.testing.assert_allclose(energies[:, 0, source], expected, rtol=1e-9, atol=1e-9)
        found = projection.filtered_energies(frame, estimate, source, filters)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        rest = [row for row in range(sources * channels) if row // channels != source]
        assert filters.own.shape == (sources, channels, channels, taps)
        assert bool(rest) == (energies[2, 0, source] > 0)


def test_filtered_energies_of_long_frames() -> None:
    references, estimates = signals(samples=6000)
    correlator = Correlator(references, estimates, 5, 6000)
    lags, squares = correlator.section(0, 6000)
    filters = projection.fit(lags, 2, np.array([], np.intp))
    energies, _ = projection.frame_energies(
        lags[None], squares[None], projection.energy_weights(filters)
    )
    found = projection.filtered_energies(references, estimates[1], 1, filters)
    np.testing.assert_allclose(found, energies[:, 0, 1], rtol=1e-9)


def test_cancellation_is_reported_as_inaccurate() -> None:
    references, estimates = signals()
    estimates[0] = 0.7 * references[0] + 1e-7 * estimates[0]
    correlator = Correlator(references, estimates, 4, 500)
    lags, squares = correlator.section(0, 500)
    filters = projection.fit(lags, 2, np.array([], np.intp))
    _, inaccurate = projection.frame_energies(
        lags[None], squares[None], projection.energy_weights(filters)
    )
    assert inaccurate.tolist() == [[True, False]]


def test_copied_channels_get_no_filters() -> None:
    references, estimates = signals(channels=3)
    references[1, :, 2] = references[1, :, 0]
    references[0, 240:330, 1] = references[0, 240:330, 0]
    copies = projection.copied_channels(references)
    assert copies.tolist() == [5]
    lags, _ = Correlator(references, estimates, 4, 500).section(0, 500)
    filters = projection.fit(lags, 2, copies)
    assert not filters.all[:, :, 5].any()
    assert not filters.own[1, :, 2].any()
    assert filters.all_condition < 100
    singular = projection.fit(lags, 2, np.array([], np.intp))
    assert singular.all_condition > 1e10
    same = projection.energy_weights(filters) - projection.energy_weights(singular)
    np.testing.assert_allclose(np.einsum("nsqkl,qkl->ns", same, lags), 0, atol=1e-6)
