"""Energies of projections of estimates on references, without filtering.

The projections of an estimate e on its own reference, p1 = sum_k c1_k * x_k, and on all references,
p2 = sum_k c2_k * x_k, are convolutions with F taps. Their energies in a frame, with zeros around
it, are quadratic forms in the frame's correlations at lags 0 ... F - 1:

    || sum_k b_k * x_k ||^2 = sum_ik sum_l W_ik[l] r_ik[l],
    W_ik[l] = (2 - [l = 0]) sum_a b_i[a] b_k[a + l],   r_ik[l] = sum_n x_i[n] x_k[n - l]

and likewise <e, sum_k c_k * x_k> = sum_k sum_l c_k[l] sum_n e[n] x_k[n - l]. So one pass over the
audio computes the correlations of all frames, their sum gives the filters, and one matrix product
all energies.

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

ENERGIES = 5  # |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2, |e - p2|^2

# If the relative rounding error is larger, energies are computed by filtering: 4e-7 dB.
TOLERANCE = 1e-7
_KEPT_BYTES = 256 * 2**20  # limit of the correlations of frames that are kept
_GROUP = 16  # frames in one matrix product


@dataclass
class Filters:
    """Distortion filters and the condition of the systems they solve.

    Attributes:
        own: c1, from a source's channels to each channel of its estimate, (S, C, C, F).
        all: c2, from all references to each channel of each estimate, (S, C, P, F).
        own_condition: Condition number of each source's own system, shape (S,).
        all_condition: Condition number of the system of all references.
    """

    own: Array
    all: Array
    own_condition: Array
    all_condition: float


def measure(
    references: Signals,
    estimates: Signals,
    frames: Sequence[_Bounds],
    audible: Sequence[int],
    taps: int,
    framewise: bool = False,
    threads: int = 1,
) -> tuple[Array, Array, list[Filters]]:
    """Fit distortion filters and compute the energies of the projections in each frame.

    Args:
        references: True sources, shape (S, T, C).
        estimates: Estimates in the same order, shape (S, T, C).
        frames: First sample and one past the last of each frame.
        audible: Indices of the frames to measure; filters are fitted to the whole track.
        taps: F, taps of a filter.
        framewise: Fit filters to each frame instead.
        threads: Number of frames to process in parallel.

    Returns:
        |s|^2, |e|^2 and |e - s|^2, shape (frames, 3, S); |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2
        and |e - p2|^2, shape (ENERGIES, frames, S); and the filters of the whole track, or of each
        audible frame. Energies of the other frames are NaN.
    """
    sources, samples, _ = references.shape
    squares = np.full((len(frames), 3, sources), np.nan)
    energies = np.full((ENERGIES, len(frames), sources), np.nan)
    longest = max((stop - start for start, stop in frames), default=1)
    correlator = Correlator(references, estimates, taps, longest)
    copies = copied_channels(references)
    known: list[tuple[Array, Array]] = []
    common: tuple[Filters, Array] | None = None

    def filters_and_weights(correlations: Array) -> tuple[Filters, Array]:
        filters = fit(correlations, sources, copies)
        return filters, energy_weights(filters)

    def measure_group(group: Sequence[int]) -> Filters:
        parts = [known[index] if known else correlator.section(*frames[index]) for index in group]
        lags, levels = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        filters, weights = common or filters_and_weights(lags[0])
        values, inaccurate = frame_energies(lags, levels, weights)
        for row, source in np.argwhere(inaccurate):
            start, stop = frames[group[row]]
            values[:, row, source] = filtered_energies(
                references[:, start:stop], estimates[source, start:stop], source, filters
            )
        squares[group], energies[:, group] = levels, values
        return filters

    with ThreadPoolExecutor(threads) as pool:
        # A pool of one thread would only add overhead.
        apply = pool.map if threads > 1 else map
        if not framewise:
            keep = _contiguous(frames) and len(frames) * correlator.result_bytes <= _KEPT_BYTES
            if keep:
                tail = [(frames[-1][1], samples)] if frames[-1][1] < samples else []
                whole, sections = correlator, [*frames, *tail]
            else:
                borders = np.linspace(0, samples, threads + 1).astype(int).tolist()
                sections = list(itertools.pairwise(borders))
                whole = Correlator(references, estimates, taps, max(1, samples // threads))
            total = whole.borders(sections[1:])
            for part in apply(lambda ends: whole.section(*ends), sections):
                total += part[0]
                if keep:
                    known.append(part)
            common = filters_and_weights(total)
        size = 1 if framewise else _GROUP
        groups = [audible[first : first + size] for first in range(0, len(audible), size)]
        fitted = list(apply(measure_group, groups))
    return squares, energies, [common[0]] if common else fitted


def copied_channels(references: Signals) -> NDArray[np.intp]:
    """Find channels of references (S, T, C) that equal an earlier one of their source.

    Returns:
        Their indices among the P signals.
    """
    sources, samples, channels = references.shape
    middle = slice(samples // 2, samples // 2 + 64)  # enough to tell most channels apart
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

    Filters that depend on correlations that are not finite are NaN, as in museval.

    Args:
        correlations: As `Correlator.section` returns them, shape (2 P, P, F).
        sources: S.
        copies: Signals equal to others, which get no filters: the projections are the same, and
            the system stays well-conditioned.
    """
    _, signals, taps = correlations.shape
    channels = signals // sources
    correlations = correlations.copy()
    correlations[:, copies] = correlations[copies] = 0
    among, right = correlations[:signals], correlations[signals:]
    every, all_condition = _solve(among[None], right[None])
    own, own_condition = every, all_condition
    if sources > 1:  # for a single source, both are the same: its interference is exactly zero
        rows = np.arange(signals).reshape(sources, channels)
        blocks = rows[:, :, None], rows[:, None, :]
        own, own_condition = _solve(among[blocks], right[blocks])
    return Filters(
        own.reshape(sources, channels, channels, taps),
        every.reshape(sources, channels, signals, taps),
        own_condition,
        float(all_condition[0]),
    )


def _solve(lags: Array, right: Array) -> tuple[Array, Array]:
    """Solve the systems with finite values; NaN for the others."""
    filters, condition = np.full(right.shape, np.nan), np.full(len(lags), np.nan)
    systems = np.isfinite(lags).all(axis=(1, 2, 3))
    columns = np.isfinite(right).all(axis=(2, 3), keepdims=True)
    if systems.any():
        solution = toeplitz.solve(lags[systems], np.where(columns, right, 0)[systems])
        filters[systems], condition[systems] = solution.filters, solution.condition
    return np.where(columns, filters, np.nan), condition


def energy_weights(filters: Filters) -> Array:
    """Weights that turn correlations into energies.

    Returns:
        Weights of |p1|^2, |p1 - s|^2, |p2 - p1|^2, |p2|^2 and |e - p2|^2 - |e|^2,
        shape (ENERGIES, S, 2 P, P, F).
    """
    sources, channels, signals, taps = filters.all.shape
    weights = np.zeros((ENERGIES, sources, 2 * signals, signals, taps))
    for source in range(sources):
        rows = slice(source * channels, (source + 1) * channels)
        own = np.zeros((channels, signals, taps))
        own[:, rows] = filters.own[source]
        spatial = own.copy()
        spatial[np.arange(channels), np.arange(signals)[rows], 0] -= 1
        every = filters.all[source]
        for form, combined in enumerate((own, spatial, every - own, every)):
            weights[form, source, :signals] = _autocorrelation(combined)
        # |e - p2|^2 = |e|^2 - 2 <e, p2> + |p2|^2
        weights[4, source] = weights[3, source]
        weights[4, source, signals:][rows] = -2 * every
    return weights


def frame_energies(correlations: Array, squares: Array, weights: Array) -> tuple[Array, Array]:
    """Compute energies of projections from correlations of frames.

    Args:
        correlations: As `Correlator.section` returns them, shape (frames, 2 P, P, F).
        squares: |s|^2, |e|^2 and |e - s|^2, shape (frames, 3, S).
        weights: As `energy_weights` returns them.

    Returns:
        Energies, shape (ENERGIES, frames, S), and whether rounding makes those of a source
        inaccurate, shape (frames, S): their terms are then much larger than their sum, and
        `filtered_energies` must be used.
    """
    frames, _, signals, _ = correlations.shape
    sources = squares.shape[-1]
    if not np.isfinite(squares).all():
        # NaN filters mark the affected sources; 0 times NaN would affect the others.
        correlations = np.nan_to_num(correlations, posinf=0, neginf=0)
    energies = correlations.reshape(frames, -1) @ weights.reshape(ENERGIES * sources, -1).T
    energies = energies.reshape(frames, ENERGIES, sources).transpose(1, 0, 2)
    energies[4] += squares[:, 1]
    # The rounding error of an FFT is spread evenly over lags: eps |y| |x| at each.
    power = np.einsum("fkk->fk", correlations[:, :signals, :, 0])
    estimate_power = np.nan_to_num(squares[:, 1], posinf=0)
    both = np.concatenate([power, np.repeat(estimate_power, signals // sources, axis=1)], axis=1)
    spread = np.einsum("nsqkl,nsqkl->nsqk", weights, weights)
    rounding = np.einsum("nsqk,fq,fk->nfs", spread, both, power, optimize=True)
    rounding = np.finfo(np.float64).eps * np.sqrt(np.maximum(rounding, 0))
    rounding[4] += np.finfo(np.float64).eps * squares[:, 1]
    if sources == 1:
        # All references are its own: the interference is exactly zero.
        energies[2], rounding[2] = 0 * energies[0], 0
    with np.errstate(invalid="ignore"):
        inaccurate = (rounding > TOLERANCE * energies).any(axis=0)
    return energies, inaccurate


def filtered_energies(
    references: Signals, estimate: Signals, source: int, filters: Filters
) -> Array:
    """Compute the energies by filtering a frame, for scores too high for `frame_energies`.

    Args:
        references: True sources within the frame, shape (S, L, C).
        estimate: The estimate within the frame, shape (L, C).
        source: Which of the references the estimate is of.
        filters: The filters of all sources.

    Returns:
        The energies, shape (ENERGIES,).
    """
    sources, length, channels = references.shape
    taps = filters.own.shape[-1]
    past = taps - 1
    n_fft = fft_length(length, taps)
    hop = n_fft - past
    rows = slice(source * channels, (source + 1) * channels)
    own = np.fft.rfft(filters.own[source], n_fft)
    every = np.fft.rfft(filters.all[source], n_fft)
    energies = np.zeros(ENERGIES)
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
    """Whether frames are contiguous from the start, without gaps or overlaps."""
    starts, stops = zip(*frames, strict=True) if frames else ((), ())
    return starts[:1] == (0,) and starts[1:] == stops[:-1] and all(a < b for a, b in frames)
