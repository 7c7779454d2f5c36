"""Energies of the projections of estimates onto references, computed without filtering.

Let x_k be the channels of the references and e a channel of an estimate. Its projection onto its
own reference is p1 = sum_k c1_k * x_k, summed over the channels of that reference. Its projection
onto all references is p2 = sum_k c2_k * x_k, summed over all channels. The filters c1 and c2 have F
taps. In a frame with zeros around it, the energy of such a sum is quadratic in the filters and
linear in the frame's correlations at lags 0 ... F - 1:

    || sum_k b_k * x_k ||^2 = sum_ik sum_l W_ik[l] r_ik[l],
    W_ik[l] = (2 - [l = 0]) sum_a b_i[a] b_k[a + l],   r_ik[l] = sum_n x_i[n] x_k[n - l]

Likewise, <e, sum_k c_k * x_k> = sum_k sum_l c_k[l] sum_n e[n] x_k[n - l]. So one pass over the
audio computes the correlations of all frames. Their sum determines the filters. One matrix product
then gives all energies.

Signals are numbered by source, then channel: P = sources times channels.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import toeplitz
from lightning_modules.evaluation.bss_eval.correlations import Correlator, fft_length

Array = NDArray[np.float64]
Signals = NDArray[np.generic]
_Bounds = tuple[int, int]

N_ENERGIES = 5  # |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2, |e - p2|^2

# Largest accepted relative rounding error (4e-7 dB). Above it, energies are computed by filtering.
TOLERANCE = 1e-7
_KEPT_BYTES = 256 * 2**20  # maximum size of the kept correlations of frames
_GROUP = 16  # number of frames per matrix product


@dataclass
class Filters:
    """Distortion filters and the condition numbers of the linear systems that determine them.

    Attributes:
        own: c1, from the channels of a reference (third axis) to the channels of its estimate
            (second axis), shape (S, C, C, F).
        all: c2, from the channels of all references to the channels of each estimate, shape
            (S, C, P, F).
        own_condition: Condition number of each source's system for c1, shape (S,).
        all_condition: Condition number of the system for c2.
    """

    own: Array
    all: Array
    own_condition: Array
    all_condition: float


def measure(
    references: Signals,
    estimates: Signals,
    frames: Sequence[_Bounds],
    scored_frames: Sequence[int],
    taps: int,
    framewise: bool = False,
    threads: int = 1,
) -> tuple[Array, Array, list[Filters]]:
    """Fit distortion filters and compute the energies of the projections in each frame.

    Args:
        references: True sources, shape (S, T, C).
        estimates: Estimates in the same order, shape (S, T, C).
        frames: Start and stop of each frame in samples; stop is exclusive.
        scored_frames: Indices of the frames whose energies are computed. Filters are fitted to the
            whole track, including the other frames.
        taps: F, number of taps of a filter.
        framewise: Fit separate filters to each scored frame instead.
        threads: Number of frames to process in parallel.

    Returns:
        |s|^2, |e|^2 and |e - s|^2, shape (frames, 3, S); |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2
        and |e - p2|^2, shape (N_ENERGIES, frames, S); and one set of filters for the whole track,
        or one for each scored frame. Energies of the other frames are NaN.
    """
    sources, samples, _ = references.shape
    squares = np.full((len(frames), 3, sources), np.nan)
    energies = np.full((N_ENERGIES, len(frames), sources), np.nan)
    longest = max((stop - start for start, stop in frames), default=1)
    correlator = Correlator(references, estimates, taps, longest)
    copies = copied_channels(references)
    kept: list[tuple[Array, Array]] = []
    track_filters: tuple[Filters, Array] | None = None

    def filters_and_weights(correlations: Array) -> tuple[Filters, Array]:
        filters = fit(correlations, sources, copies)
        return filters, energy_weights(filters)

    def measure_group(group: Sequence[int]) -> Filters:
        parts = [kept[index] if kept else correlator.section(*frames[index]) for index in group]
        lags, levels = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        filters, weights = track_filters or filters_and_weights(lags[0])
        values, inaccurate = frame_energies(lags, levels, weights)
        for row, source in np.argwhere(inaccurate):
            start, stop = frames[group[row]]
            values[:, row, source] = filtered_energies(
                references[:, start:stop], estimates[source, start:stop], source, filters
            )
        squares[group], energies[:, group] = levels, values
        return filters

    with ThreadPoolExecutor(threads) as pool:
        # With one thread, a pool would only add overhead.
        apply = pool.map if threads > 1 else map
        if not framewise:
            keep = _contiguous(frames) and len(frames) * correlator.result_bytes <= _KEPT_BYTES
            if keep:
                tail = [(frames[-1][1], samples)] if frames[-1][1] < samples else []
                sections_correlator, sections = correlator, [*frames, *tail]
            else:
                borders = np.linspace(0, samples, threads + 1).astype(int).tolist()
                sections = list(itertools.pairwise(borders))
                sections_correlator = Correlator(
                    references, estimates, taps, max(1, samples // threads)
                )
            total = sections_correlator.borders(sections[1:])
            for part in apply(lambda ends: sections_correlator.section(*ends), sections):
                total += part[0]
                if keep:
                    kept.append(part)
            track_filters = filters_and_weights(total)
        size = 1 if framewise else _GROUP
        groups = [
            scored_frames[first : first + size] for first in range(0, len(scored_frames), size)
        ]
        fitted = list(apply(measure_group, groups))
    return squares, energies, [track_filters[0]] if track_filters else fitted


def copied_channels(references: Signals) -> NDArray[np.intp]:
    """Find channels of references (S, T, C) that equal an earlier channel of the same source.

    Returns:
        Indices of these channels among the P signals.
    """
    sources, samples, channels = references.shape
    middle = slice(samples // 2, samples // 2 + 64)  # differs for most channels
    signals = references.transpose(0, 2, 1)
    copies = [
        source * channels + channel
        for source, channel in itertools.product(range(sources), range(channels))
        if any(
            np.array_equal(earlier[middle], signals[source, channel, middle])
            and np.array_equal(earlier, signals[source, channel])
            for earlier in signals[source, :channel]
        )
    ]
    return np.array(copies, dtype=np.intp)


def fit(correlations: Array, sources: int, copies: NDArray[np.intp]) -> Filters:
    """Fit the least-squares filters from references to estimates.

    If a correlation is NaN or infinite, the filters that depend on it are NaN, as in museval.

    Args:
        correlations: Of the P references, then of the estimates' P channels, with the P references,
            as returned by `Correlator.section`, shape (2 P, P, F).
        sources: S.
        copies: Indices of duplicate signals. Their filters are zero, which does not change the
            projections and keeps the systems well-conditioned.
    """
    _, signals, taps = correlations.shape
    channels = signals // sources
    correlations = correlations.copy()
    correlations[:, copies] = correlations[copies] = 0
    of_references, of_estimates = correlations[:signals], correlations[signals:]
    all_filters, all_condition = _solve(of_references[None], of_estimates[None])
    own_filters, own_condition = all_filters, all_condition
    if sources > 1:  # otherwise both projections are the same: the interference is exactly zero
        rows = np.arange(signals).reshape(sources, channels)
        blocks = rows[:, :, None], rows[:, None, :]
        own_filters, own_condition = _solve(of_references[blocks], of_estimates[blocks])
    return Filters(
        own_filters.reshape(sources, channels, channels, taps),
        all_filters.reshape(sources, channels, signals, taps),
        own_condition,
        float(all_condition[0]),
    )


def _solve(lags: Array, right: Array) -> tuple[Array, Array]:
    """Solve linear systems; those with NaN or infinite values get NaN."""
    filters, condition = np.full(right.shape, np.nan), np.full(len(lags), np.nan)
    systems = np.isfinite(lags).all(axis=(1, 2, 3))
    columns = np.isfinite(right).all(axis=(2, 3), keepdims=True)
    if systems.any():
        solution = toeplitz.solve(lags[systems], np.where(columns, right, 0)[systems])
        filters[systems], condition[systems] = solution.filters, solution.condition
    return np.where(columns, filters, np.nan), condition


def energy_weights(filters: Filters) -> Array:
    """Compute the weights W with which correlations are summed to energies.

    Returns:
        Weights of |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2 and |e - p2|^2 - |e|^2,
        shape (N_ENERGIES, S, 2 P, P, F).
    """
    sources, channels, signals, taps = filters.all.shape
    weights = np.zeros((N_ENERGIES, sources, 2 * signals, signals, taps))
    for source in range(sources):
        rows = slice(source * channels, (source + 1) * channels)
        own = np.zeros((channels, signals, taps))
        own[:, rows] = filters.own[source]
        spatial = own.copy()
        spatial[np.arange(channels), np.arange(signals)[rows], 0] -= 1
        total = filters.all[source]
        for energy, combined in enumerate((own, spatial, total - own, total)):
            weights[energy, source, :signals] = _autocorrelation(combined)
        # |e - p2|^2 = |e|^2 - 2 <e, p2> + |p2|^2
        weights[4, source] = weights[3, source]
        weights[4, source, signals:][rows] = -2 * total
    return weights


def frame_energies(correlations: Array, squares: Array, weights: Array) -> tuple[Array, Array]:
    """Compute energies of projections from correlations of frames.

    Args:
        correlations: Of each frame, as returned by `Correlator.section`, shape
            (frames, 2 P, P, F).
        squares: |s|^2, |e|^2 and |e - s|^2, shape (frames, 3, S).
        weights: As returned by `energy_weights`.

    Returns:
        Energies, shape (N_ENERGIES, frames, S), and a boolean array, shape (frames, S). It is true
        where rounding makes the energies inaccurate, because the terms are much larger than their
        sum; there, use `filtered_energies`.
    """
    frames, _, signals, _ = correlations.shape
    sources = squares.shape[-1]
    if not np.isfinite(squares).all():
        # The affected sources have NaN filters already. In the others, 0 * NaN would give NaN too.
        correlations = np.nan_to_num(correlations, posinf=0, neginf=0)
    energies = correlations.reshape(frames, -1) @ weights.reshape(N_ENERGIES * sources, -1).T
    energies = energies.reshape(frames, N_ENERGIES, sources).transpose(1, 0, 2)
    energies[4] += squares[:, 1]
    # A correlation of y and x by FFT has a rounding error of about eps |y| |x| at every lag.
    power = np.einsum("fkk->fk", correlations[:, :signals, :, 0])
    estimate_power = np.nan_to_num(squares[:, 1], posinf=0)
    both = np.concatenate([power, np.repeat(estimate_power, signals // sources, axis=1)], axis=1)
    spread = np.einsum("nsqkl,nsqkl->nsqk", weights, weights)
    rounding = np.einsum("nsqk,fq,fk->nfs", spread, both, power, optimize=True)
    rounding = np.finfo(np.float64).eps * np.sqrt(np.maximum(rounding, 0))
    rounding[4] += np.finfo(np.float64).eps * squares[:, 1]
    if sources == 1:
        # Both projections are the same: the interference is exactly zero.
        energies[2], rounding[2] = 0 * energies[0], 0
    with np.errstate(invalid="ignore"):
        inaccurate = (rounding > TOLERANCE * energies).any(axis=0)
    return energies, inaccurate


def filtered_energies(
    references: Signals, estimate: Signals, source: int, filters: Filters
) -> Array:
    """Compute the energies of a frame by filtering, where `frame_energies` is inaccurate.

    This happens if the scores are very high.

    Args:
        references: True sources within the frame, shape (S, L, C).
        estimate: The estimate within the frame, shape (L, C).
        source: Index of the estimated source.
        filters: The filters of all sources.

    Returns:
        The energies, shape (N_ENERGIES,).
    """
    sources, length, channels = references.shape
    taps = filters.own.shape[-1]
    past = taps - 1
    n_fft = fft_length(length, taps)
    hop = n_fft - past
    rows = slice(source * channels, (source + 1) * channels)
    own = np.fft.rfft(filters.own[source], n_fft)
    every = np.fft.rfft(filters.all[source], n_fft)
    energies = np.zeros(N_ENERGIES)
    waves = np.zeros((sources * channels, n_fft))
    target, output = np.zeros((channels, hop)), np.zeros((channels, hop))
    for first in range(0, length + past, hop):
        begin, end = max(0, first - past), min(length, first + hop)
        waves[:] = target[:] = output[:] = 0
        column = begin - first + past
        waves[:, column : column + end - begin] = (
            references[:, begin:end].transpose(0, 2, 1).reshape(sources * channels, -1)
        )
        inside = max(0, end - first)
        target[:, :inside] = waves[rows, past : past + inside]
        output[:, :inside] = estimate[first:end].T
        spectra = np.fft.rfft(waves)
        kept = min(hop, length + past - first)
        p1, p2 = (
            np.fft.irfft((applied * spectra[inputs]).sum(axis=1), n_fft)[:, past : past + kept]
            for applied, inputs in ((own, rows), (every, slice(None)))
        )
        parts = (p1, p1 - target[:, :kept], p2 - p1, p2, output[:, :kept] - p2)
        energies += [np.vdot(part, part) for part in parts]
    return energies


def _autocorrelation(filters: Array) -> Array:
    """W in the module's formula, summed over output channels: (C, P, F) -> (P, P, F)."""
    taps = filters.shape[-1]
    n_fft = 2 * taps
    spectra = np.ascontiguousarray(np.fft.rfft(filters, n_fft).transpose(2, 1, 0))
    product = (spectra.conj() @ spectra.swapaxes(1, 2)).transpose(1, 2, 0)
    weights = np.fft.irfft(product, n_fft)[..., :taps]
    weights[..., 1:] *= 2
    return weights


def _contiguous(frames: Sequence[_Bounds]) -> bool:
    """Whether frames follow one another from sample 0, without gaps or overlaps."""
    starts, stops = zip(*frames, strict=True) if frames else ((), ())
    return starts[:1] == (0,) and starts[1:] == stops[:-1] and all(a < b for a, b in frames)
