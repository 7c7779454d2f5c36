"""More figures of separated tracks, computed where the signals are, on any device.

Two passes that need little memory reduce signals to a few sums: `energies` to sums over the
seconds of a track, `distances` to means over its short-time frames. Each metric is a formula on
one of the two, and `evaluate` computes them all, for the estimates and for the mixture as
estimate, from one transform of each signal.

Sums are float64, so that ten minutes lose nothing; a device without float64 (mps) sums each
second in float32, and the rest, the results too, is on the CPU. A figure that does not exist is
NaN: what depends on the energy of a reference that is silent throughout, and every figure of a
source with NaN or infinite samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.evaluation import frames

# The constant of the Music Demixing challenges' SDR.
_DELTA = 1e-7
_N_FFT = 2048
_HOP_LENGTH = 1024
# Power below which a bin counts as silent: 100 dB under a sine of amplitude 1.
_SILENT_POWER = 1e-10
# Samples of all references that a block of seconds holds: 8 MiB of float64.
_BLOCK_SAMPLES = 2**20


@dataclass(frozen=True)
class Energies:
    """Sums over the channels and samples of each second, float64, shape (..., S, N).

    Attributes:
        reference: Sum of s^2.
        error: Sum of (e - s)^2.
        overlap: Sum of s (e - s). Small where the estimate is good, so that what is derived from
            it keeps its digits.
        whole_seconds: How many of the N are whole; a last one that is not holds the rest of the
            track. A track shorter than a second counts as a whole one.
    """

    reference: Tensor
    error: Tensor
    overlap: Tensor
    whole_seconds: int


@dataclass(frozen=True)
class Distances:
    """Distances in each short-time frame, means over channels, float64, shape (..., S, N).

    Frames have 2048 samples, half of which are the hop; the track counts as zero outside.

    Attributes:
        log_spectral: Root mean square over bins of the two powers' ratio in dB.
        waveform: Mean of |s - e| over samples.
        magnitude: Mean over bins of the magnitudes' absolute difference, Hann window, on a scale
            on which a sine of amplitude 1 has the magnitude 1.
    """

    log_spectral: Tensor
    waveform: Tensor
    magnitude: Tensor


def usdr(sums: Energies) -> Tensor:
    """Compute the whole-track SDR of the Music Demixing challenges.

        10 log10( (sum s^2 + d) / (sum (s - e)^2 + d) ),  d = 1e-7

    with sums over all channels and samples: Mitsufuji et al. 2022, "Music Demixing Challenge
    2021"; Fabbro et al. 2024, "The Sound Demixing Challenge 2023 – Music Demixing Track". Equal
    to `lightning_modules.evaluation.scores.usdr`.

    Returns:
        dB, shape (..., S). A silent estimate has 0 dB; a perfect one is finite.
    """
    return _where_defined(sums, _decibels(*_totals(sums), _DELTA))


def csdr(sums: Energies) -> Tensor:
    """Compute the chunk SDR: the median over whole seconds of the formula of `usdr`.

    Seconds in which the reference is silent are left out. Papers that print a "cSDR" beside a
    "uSDR" (as Luo and Yu 2023, "Music source separation with band-split RNN") mean museval's SDR
    by it, which allows the estimate a filter of 512 taps; this one allows nothing, and is not to
    be compared with theirs.

    Returns:
        dB, shape (..., S); NaN if the reference is silent in every whole second.
    """
    reference = sums.reference[..., : sums.whole_seconds]
    error = sums.error[..., : sums.whole_seconds]
    ratios = _decibels(reference, error, _DELTA)
    ratios = ratios.masked_fill(reference == 0, torch.nan)
    return _where_defined(sums, ratios.nanquantile(0.5, dim=-1))


def snr(sums: Energies) -> Tensor:
    """Compute the signal-to-noise ratio.

        10 log10( sum s^2 / sum (s - e)^2 )

    over all channels and samples: `usdr` without its constant. The two differ where a track's
    energy or error is next to nothing.

    Returns:
        dB, shape (..., S); infinite for a perfect estimate.
    """
    return _where_defined(sums, _decibels(*_totals(sums)))


def si_sdr(sums: Energies) -> Tensor:
    """Compute the scale-invariant SDR.

        10 log10( sum (a s)^2 / sum (e - a s)^2 ),  a = sum s e / sum s^2

    Le Roux, Wisdom, Erdogan and Hershey 2019, "SDR – half-baked or well done?", equation 5. Sums
    go over all channels, with one factor a for all of them: a gain costs nothing, another balance
    of the channels does. No mean is subtracted.

    Returns:
        dB, shape (..., S); infinite for a multiple of the reference, minus infinity for an
        estimate without any part of it, NaN for a silent estimate.
    """
    reference, error = _totals(sums)
    # With d = e - s and b = sum s d / sum s^2: a = 1 + b, and what is left of e is left of d.
    shift = sums.overlap.sum(-1) / reference
    residual = (error - shift**2 * reference).clamp_min(0)
    return _where_defined(sums, _decibels((1 + shift) ** 2 * reference, residual))


def lsd(means: Distances) -> Tensor:
    """Compute the log-spectral distance.

        mean over frames and channels of sqrt( mean over bins of (10 log10 P_s / P_e)^2 )

    with the powers P of a short-time spectrum, none taken below 100 dB under a sine of amplitude
    1: Gray and Markel 1976, "Distance measures for speech processing", the rms log-spectral
    measure, here between short-time spectra as is usual in speech enhancement. Deaf to phase, and
    as strict with quiet bins as with loud ones: silence that is filled with noise costs much.

    Returns:
        dB, 0 or more, shape (..., S). Defined for silent references too.
    """
    return means.log_spectral.mean(-1)


def time_difference(means: Distances) -> tuple[Tensor, Tensor]:
    """Compute the signal difference in the time domain.

        mean, or median, over frames of  mean over channels and samples of |s - e|

    The "signal difference" of Pourtorkan's report on U-Nets is of this kind, zero for equal
    signals, but its formula is not given there: the two are not comparable.

    Returns:
        Mean and median, in units of amplitude, each of shape (..., S).
    """
    return means.waveform.mean(-1), means.waveform.quantile(0.5, dim=-1)


def stft_difference(means: Distances) -> tuple[Tensor, Tensor]:
    """Compute the signal difference in the time-frequency domain.

        mean, or median, over frames of  mean over channels and bins of | |S| - |E| |

    A sine of amplitude 1 has |S| = 1 in its bin. As `time_difference`, not comparable with
    Pourtorkan's report. Deaf to phase, so that it forgives a shift of some samples.

    Returns:
        Mean and median, in units of amplitude, each of shape (..., S).
    """
    return means.magnitude.mean(-1), means.magnitude.quantile(0.5, dim=-1)


@torch.no_grad()
def sum_error(estimates: Tensor, mixture: Tensor) -> Tensor:
    """Compute how far the estimates are from adding up to the mixture.

        10 log10( sum (x - sum_j e_j)^2 / sum x^2 )

    Says nothing about models that do not separate all sources of the mixture.

    Args:
        estimates: Estimates, shape (..., S, C, T).
        mixture: Mixture, shape (..., C, T).

    Returns:
        dB, shape (...); minus infinity for an exact sum, NaN for a silent mixture.

    Raises:
        ValueError: The shapes do not agree.
    """
    _as_source(mixture, estimates)
    samples = mixture.shape[-1]
    block = max(1, _BLOCK_SAMPLES // (estimates.numel() // samples))
    sums = _table(2, mixture, math.ceil(samples / block))
    for column, start in enumerate(range(0, samples, block)):
        mixed = _widened(mixture[..., start : start + block])
        rest = mixed - _widened(estimates[..., start : start + block]).sum(-3)
        two = torch.stack([rest.square().sum((-2, -1)), mixed.square().sum((-2, -1))])
        sums[..., column] = two.to(sums.device)
    return _decibels(sums[0].sum(-1), sums[1].sum(-1))


def shift_error(
    separate: Callable[[Tensor], Tensor], mixture: Tensor, shift_samples: int
) -> Tensor:
    """Compute how much the estimates depend on where in time the mixture begins.

        10 log10( sum (e'(t + shift) - e(t))^2 / sum e(t)^2 )

    where e are the estimates of the mixture and e' those of the mixture after `shift_samples`
    zeros. A time-equivariant model has minus infinity. One that works on strides or frames has
    so only for multiples of them, and what it loses on others is what averaging over shifts gains.

    Args:
        separate: Maps a mixture (C, T) to estimates (S, C, T), for any T.
        mixture: Mixture, shape (C, T).
        shift_samples: Length of the silence in front, 0 or more.

    Returns:
        dB, shape (S,); NaN for a source whose estimates are silent.

    Raises:
        ValueError: The shift is negative.
    """
    if shift_samples < 0:
        raise ValueError(f"shift_samples is {shift_samples}: give 0 or more")
    estimates = separate(mixture)
    shifted = separate(torch.nn.functional.pad(mixture, (shift_samples, 0)))[..., shift_samples:]
    (sums,) = energies(estimates, shifted)
    return -snr(sums)


def evaluate(
    references: Tensor, estimates: Tensor, mixture: Tensor, sample_rate: int = 44100
) -> dict[str, Tensor]:
    """Compute all metrics, and what each gains over the mixture as estimate.

    Args:
        references: True sources, nominally in [-1, 1], shape (..., S, C, T).
        estimates: Estimates in the same order, shape (..., S, C, T).
        mixture: Mixture, shape (..., C, T).
        sample_rate: Samples per second.

    Returns:
        Metric -> figures, shape (..., S): `usdr`, `csdr`, `snr`, `si_sdr` and `lsd` in dB;
        `time_difference_mean`, `time_difference_median`, `stft_difference_mean` and
        `stft_difference_median` in units of amplitude. Each has a twin ending in `_improvement`:
        the figure minus that of the mixture as estimate; below zero it is a gain for `lsd` and
        the differences, of which less is better. `sum_error`, dB, is one figure a track, shape
        (...), without a twin: the same mixture S times tells S.

    Raises:
        ValueError: The shapes do not agree.
    """
    if estimates.shape != references.shape:
        raise ValueError(
            f"references have shape {tuple(references.shape)}, estimates "
            f"{tuple(estimates.shape)}: expected both as (..., sources, channels, samples)"
        )
    candidates = (estimates, _as_source(mixture, references))
    figures, baseline = (
        _figures(*passes)
        for passes in zip(
            energies(references, *candidates, sample_rate=sample_rate),
            distances(references, *candidates),
            strict=True,
        )
    )
    improvements = {f"{name}_improvement": figures[name] - baseline[name] for name in figures}
    return {**figures, **improvements, "sum_error": sum_error(estimates, mixture)}


@torch.no_grad()
def energies(references: Tensor, *candidates: Tensor, sample_rate: int = 44100) -> list[Energies]:
    """Reduce signals to sums over each second.

    Args:
        references: True sources, shape (..., S, C, T).
        *candidates: What is compared with them, each of shape (..., S, C, T), or (..., 1, C, T)
            for the same signal against every source.
        sample_rate: Samples per second.

    Returns:
        The sums of each candidate.

    Raises:
        ValueError: The shapes do not agree.
    """
    _check(references, *candidates)
    samples = references.shape[-1]
    signals = references.numel() // samples
    block = sample_rate * max(1, _BLOCK_SAMPLES // (signals * sample_rate))
    count = math.ceil(samples / sample_rate)
    sums = [_table(3, references, count) for _ in candidates]
    for start in range(0, samples, block):
        now = slice(start // sample_rate, (start + block) // sample_rate)
        true = _seconds(references[..., start : start + block], sample_rate)
        power = true.square().sum((-3, -1))
        for table, candidate in zip(sums, candidates, strict=True):
            error = _seconds(candidate[..., start : start + block], sample_rate) - true
            three = (power, error.square().sum((-3, -1)), (true * error).sum((-3, -1)))
            table[..., now] = torch.stack(three).to(table.device)
    whole_seconds = max(1, samples // sample_rate)
    return [Energies(table[0], table[1], table[2], whole_seconds) for table in sums]


@torch.no_grad()
def distances(references: Tensor, *candidates: Tensor) -> list[Distances]:
    """Reduce signals to distances in each short-time frame.

    Args:
        references: True sources, shape (..., S, C, T).
        *candidates: What is compared with them, each of shape (..., S, C, T), or (..., 1, C, T)
            for the same signal against every source.

    Returns:
        The distances of each candidate.

    Raises:
        ValueError: The shapes do not agree.
    """
    _check(references, *candidates)
    signals = references.numel() // references.shape[-1]
    dtype = torch.promote_types(references.dtype, torch.float32)
    window = torch.hann_window(_N_FFT, dtype=dtype, device=references.device)
    window *= 2 / window.sum()  # a sine of amplitude 1 has a magnitude of 1
    count = frames.frame_count(references.shape[-1], _HOP_LENGTH)
    means = [_table(3, references, count) for _ in candidates]
    for block in frames.blocks(signals, count, _N_FFT):
        true = frames.segments(references, block, _N_FFT, _HOP_LENGTH)
        true_magnitudes = frames.spectra(true, window).abs()
        true_levels = _levels(true_magnitudes)
        now = slice(block.start, block.stop)
        for table, candidate in zip(means, candidates, strict=True):
            found = frames.segments(candidate, block, _N_FFT, _HOP_LENGTH)
            magnitudes = frames.spectra(found, window).abs()
            log_spectral = (true_levels - _levels(magnitudes)).square().mean(-1).sqrt()
            waveform = (true - found).abs().mean(-1)
            magnitude = (true_magnitudes - magnitudes).abs().mean(-1)
            three = torch.stack([log_spectral, waveform, magnitude])
            table[..., now] = three.mean(-2).to(table.device)  # (3, ..., S, C, N) -> (3, ..., S, N)
    for table in means:
        table.masked_fill_(table.isinf(), torch.nan)
    return [Distances(table[0], table[1], table[2]) for table in means]


def _figures(sums: Energies, means: Distances) -> dict[str, Tensor]:
    figures = {metric.__name__: metric(sums) for metric in (usdr, csdr, snr, si_sdr)}
    figures["lsd"] = lsd(means)
    for difference in (time_difference, stft_difference):
        mean, median = difference(means)
        figures[f"{difference.__name__}_mean"] = mean
        figures[f"{difference.__name__}_median"] = median
    return figures


def _totals(sums: Energies) -> tuple[Tensor, Tensor]:
    """Energies of reference and error over the whole track, shape (..., S)."""
    return sums.reference.sum(-1), sums.error.sum(-1)


def _where_defined(sums: Energies, figures: Tensor) -> Tensor:
    """NaN where a reference is silent throughout or a sample is not finite."""
    reference, error = _totals(sums)
    defined = (reference > 0) & reference.isfinite() & error.isfinite()
    return figures.where(defined, torch.nan)


def _decibels(numerator: Tensor, denominator: Tensor, delta: float = 0) -> Tensor:
    return 10 * torch.log10((numerator + delta) / (denominator + delta))


def _levels(magnitudes: Tensor) -> Tensor:
    return 10 * torch.log10(magnitudes.square().clamp_min(_SILENT_POWER))


def _seconds(signal: Tensor, sample_rate: int) -> Tensor:
    """Cut signals (..., T) into seconds, the last one padded: (..., N, sample_rate)."""
    missing = -signal.shape[-1] % sample_rate
    padded = torch.nn.functional.pad(signal, (0, missing))
    return _widened(padded.reshape(*signal.shape[:-1], -1, sample_rate))


def _widened(signal: Tensor) -> Tensor:
    return signal.float() if signal.device.type == "mps" else signal.double()


def _table(figures: int, signals: Tensor, columns: int) -> Tensor:
    """Room for some figures of each of the signals (..., C, T), in some columns.

    Made before the loop: small tensors that outlive large ones between them would keep the C
    library from giving their memory back.
    """
    device = "cpu" if signals.device.type == "mps" else signals.device
    return torch.empty(figures, *signals.shape[:-2], columns, dtype=torch.float64, device=device)


def _as_source(mixture: Tensor, sources: Tensor) -> Tensor:
    """Bring a mixture (..., C, T) to (..., 1, C, T), if it has the shape of the sources' sum."""
    if mixture.shape != (*sources.shape[:-3], *sources.shape[-2:]) or not sources.numel():
        raise ValueError(
            f"the mixture has shape {tuple(mixture.shape)}, the sources {tuple(sources.shape)}: "
            "expected (..., channels, samples) and (..., sources, channels, samples), at least "
            "one sample"
        )
    return mixture.unsqueeze(-3)


def _check(references: Tensor, *candidates: Tensor) -> None:
    expected = tuple(references.shape)
    allowed = (expected, (*expected[:-3], 1, *expected[-2:]))
    for candidate in candidates:
        if len(expected) < 3 or not references.numel() or tuple(candidate.shape) not in allowed:
            raise ValueError(
                f"signals have shapes {expected} and {tuple(candidate.shape)}: expected "
                "(..., sources, channels, samples) alike, or one source that stands for all, "
                "and at least one sample"
            )
