"""Metrics of separated sources besides BSS Eval, for ``tools.score --metrics``.

Each compares one estimate with its reference, waveforms of shape (C, T). A value that does not
exist is NaN: every metric if a sample is not finite, and ratios to the energy of the reference if
the reference is silent. Needs only NumPy; the two mel metrics import torchaudio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import did_you_mean

_Array = NDArray[np.float64]
_Signal = NDArray[np.floating]

_N_FFT, _HOP = 2048, 1024
_MIN_POWER = 1e-10  # of a bin: 100 dB below a sine of amplitude 1
_MEL_N_FFT, _MEL_HOP, _MEL_BANDS = 4096, 1024, 512
_MEL_MIN, _MEL_RANGE_DB = 1e-10, 80
_BLOCK_FRAMES = 256  # transformed at once, to bound memory


def energy_ratios(reference: _Signal, estimate: _Signal, sample_rate: int) -> dict[str, float]:
    """Compute SNR and SI-SDR in dB, with sums over all channels and samples.

        snr    = 10 log10( sum s^2 / sum (e - s)^2 )
        si_sdr = 10 log10( sum (a s)^2 / sum (e - a s)^2 ),  a = sum s e / sum s^2

    SI-SDR: Le Roux, Wisdom, Erdogan and Hershey 2019, "SDR – half-baked or well done?", equation 5,
    with one factor a for all channels and without subtraction of the mean. Both are infinite for
    a perfect estimate.
    """
    s = np.asarray(reference, np.float64)
    error = estimate - s
    power, error_power = float(np.sum(s * s)), float(np.sum(error * error))
    if not power > 0:
        return {"snr": math.nan, "si_sdr": math.nan}
    # a - 1, from the error: small for good estimates, so that the residual keeps its digits.
    shift = float(np.sum(s * error)) / power
    residual = max(error_power - shift**2 * power, 0.0)
    return {
        "snr": _decibels(power, error_power),
        "si_sdr": _decibels((1 + shift) ** 2 * power, residual),
    }


def l1(reference: _Signal, estimate: _Signal, sample_rate: int) -> dict[str, float]:
    """Compute the mean of |s - e| over channels and samples."""
    return {"l1": float(np.abs(reference - estimate).mean(dtype=np.float64))}


def signal_difference(reference: _Signal, estimate: _Signal, sample_rate: int) -> dict[str, float]:
    """Compute the signal difference of Pourtorkan 2022, table 2; 0 for equal signals.

        1000 * 0.33 * ( |<s,s> - <s,e>| / <s,s> + |<S,S> - <S,E>| / |<S,S>|
                        + | ||s||^2 - ||e||^2 | / ||s||^2 )

    of signals that are each divided by their peak, with their Fourier transforms S and E. Sums are
    over all channels and samples. The second term equals the first by Parseval's theorem, so no
    transform is computed. A silent estimate has 990, a perfect one 0 at any gain.
    """
    s, e = (np.asarray(signal, np.float64) for signal in (reference, estimate))
    peaks = [float(np.abs(signal).max()) for signal in (s, e)]
    if not peaks[0]:
        return {"signal_difference": math.nan}
    s, e = s / peaks[0], e / (peaks[1] or 1.0)
    power = float(np.sum(s * s))
    correlation = abs(power - float(np.sum(s * e))) / power
    energy = abs(power - float(np.sum(e * e))) / power
    return {"signal_difference": 330 * (2 * correlation + energy)}


def spectral_distances(reference: _Signal, estimate: _Signal, sample_rate: int) -> dict[str, float]:
    """Compare magnitude spectrograms: Hann window of 2048 samples, hop 1024.

        lsd     = mean over frames of sqrt( mean over bins of (10 log10 P_s / P_e)^2 ), in dB
        l1_stft = mean over frames and bins of | |S| - |E| |

    averaged over channels, where a sine of amplitude 1 has a magnitude of 1 and powers P are at
    least -100 dB. Both ignore phase. LSD weighs quiet bins as much as loud ones: Gray and Markel
    1976, "Distance measures for speech processing", the rms log-spectral measure.
    """
    frames = math.ceil(reference.shape[-1] / _HOP) + 1
    lsd = l1_stft = 0.0
    for true, found in _magnitudes((reference, estimate), _N_FFT, _HOP, frames):
        levels = [10 * np.log10(np.maximum(x**2, _MIN_POWER)) for x in (true, found)]
        lsd += float(np.sqrt(((levels[0] - levels[1]) ** 2).mean(-1)).sum())
        l1_stft += float(np.abs(true - found).mean(-1).sum())
    count = frames * reference.shape[0]
    return {"lsd": lsd / count, "l1_stft": l1_stft / count}


def bleedless_fullness(reference: _Signal, estimate: _Signal, sample_rate: int) -> dict[str, float]:
    """Compute bleedless and fullness, 0 to 100, higher is better.

        L = 20 log10 max(M |STFT|, 1e-10),  raised to max(L) - 80 where it is lower
        d = L_e - L_s
        bleedless = 100 / (1 + mean of d where d > 0)
        fullness  = 100 / (1 - mean of d where d < 0)

    with a Hann window of 4096 samples, a hop of 1024 and 512 mel bands M (Slaney's scale and
    norm); the maximum and the means are over channels, bands and frames. Proposed by "jarredou" in
    2024 and defined by `bleed_full` of ZFTurbo's Music-Source-Separation-Training.

    They separate leakage (bleedless) from missing sound (fullness), which SDR combines. Read them
    together with an SDR: one loud leak and weak leakage everywhere may have the same value, bands
    at the floor have the same weight as loud ones, and the floor depends on the loudest band of
    each signal.
    """
    import torchaudio

    bands = torchaudio.functional.melscale_fbanks(
        _MEL_N_FFT // 2 + 1, 0, sample_rate / 2, _MEL_BANDS, sample_rate,
        norm="slaney", mel_scale="slaney",
    ).numpy()  # fmt: skip
    frames = reference.shape[-1] // _MEL_HOP + 1

    def levels() -> Iterator[list[_Array]]:
        for pair in _magnitudes((reference, estimate), _MEL_N_FFT, _MEL_HOP, frames, scale=1):
            yield [20 * np.log10(np.maximum(x @ bands, _MEL_MIN)) for x in pair]

    # The floor is known only after the whole track, so signals are transformed twice.
    loudest = np.max([[level.max() for level in pair] for pair in levels()], axis=0)
    floors = loudest - _MEL_RANGE_DB
    excess = lack = 0.0
    above = below = 0
    for true, found in levels():
        difference = np.maximum(found, floors[1]) - np.maximum(true, floors[0])
        excess += float(difference.clip(min=0).sum())
        lack -= float(difference.clip(max=0).sum())
        above += int(np.count_nonzero(difference > 0))
        below += int(np.count_nonzero(difference < 0))
    return {
        "bleedless": 100 / (1 + excess / max(above, 1)),
        "fullness": 100 / (1 + lack / max(below, 1)),
    }


class Metric(NamedTuple):
    """How a metric is computed and described."""

    compute: Callable[[_Signal, _Signal, int], dict[str, float]]
    description: str


METRICS = {
    "snr": Metric(energy_ratios, "signal-to-noise ratio of the whole track, dB"),
    "si_sdr": Metric(energy_ratios, "scale-invariant SDR of the whole track, dB"),
    "l1": Metric(l1, "mean absolute error of the waveform; lower is better"),
    "signal_difference": Metric(
        signal_difference, "Pourtorkan's difference of correlations and energies; lower is better"
    ),
    "lsd": Metric(spectral_distances, "log-spectral distance, dB; lower is better"),
    "l1_stft": Metric(
        spectral_distances, "mean absolute error of STFT magnitudes; lower is better"
    ),
    "bleedless": Metric(bleedless_fullness, "absence of leakage in mel bands, 0 to 100"),
    "fullness": Metric(bleedless_fullness, "absence of missing sound in mel bands, 0 to 100"),
}


def measure(
    names: Iterable[str], reference: _Signal, estimate: _Signal, sample_rate: int
) -> dict[str, float]:
    """Compute metrics of one estimate.

    Args:
        names: Keys of ``METRICS``.
        reference: True source, nominally in [-1, 1], shape (C, T).
        estimate: Estimate, same shape.
        sample_rate: Samples per second.

    Raises:
        ValueError: The shapes differ, or there are no samples.
    """
    names = list(names)
    if reference.shape != estimate.shape or reference.ndim != 2 or not reference.size:
        raise ValueError(
            f"the reference has shape {reference.shape}, the estimate {estimate.shape}: expected "
            "both as (channels, samples), at least one sample"
        )
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        return dict.fromkeys(names, math.nan)
    found: dict[str, float] = {}
    for compute in dict.fromkeys(METRICS[name].compute for name in names):
        found |= compute(reference, estimate, sample_rate)
    return {name: found[name] for name in names}


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if a name is not in ``METRICS``, with the closest one that is."""
    for name in names:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS) or f"; known are {', '.join(METRICS)}"
            raise ValueError(f"--metrics {name}: unknown metric{hint}")


def _decibels(numerator: float, denominator: float) -> float:
    if numerator == denominator == 0:
        return math.nan
    if numerator == 0 or denominator == 0:
        return math.inf if denominator == 0 else -math.inf
    return 10 * math.log10(numerator / denominator)


def _magnitudes(
    signals: tuple[_Signal, _Signal], n_fft: int, hop: int, frames: int, scale: float | None = None
) -> Iterator[list[_Array]]:
    """Yield magnitude spectra of blocks of frames of each signal, shape (C, N, F).

    Frame n is centred on sample n `hop`; signals are zero outside. By default magnitudes are
    scaled so that a sine of amplitude 1 has 1.
    """
    window = np.hanning(n_fft + 1)[:-1]
    window *= scale or 2 / window.sum()
    for first in range(0, frames, _BLOCK_FRAMES):
        count = min(_BLOCK_FRAMES, frames - first)
        start = first * hop - n_fft // 2
        stop = start + (count - 1) * hop + n_fft
        blocks = []
        for signal in signals:
            part = signal[:, max(start, 0) : min(stop, signal.shape[-1])]
            ends = (max(-start, 0), max(stop - signal.shape[-1], 0))
            padded = np.pad(part, [(0, 0), ends])
            segments = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[:, ::hop]
            blocks.append(np.abs(np.fft.rfft(segments * window)))
        yield blocks
