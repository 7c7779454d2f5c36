"""Energy of signals in logarithmic frequency bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LOWEST_HZ = 31.25
_FADE_SECONDS = 0.05


def band_centres(sample_rate: int, per_octave: int = 1) -> NDArray[np.float64]:
    """Centres in Hz, from 31.25 Hz and including 1 kHz, of bands below half the sample rate."""
    highest = sample_rate / 2 * 2 ** (1 / (2 * per_octave))  # its lower edge is half the rate
    # Exclusive, because a band that starts there is empty.
    count = int(np.ceil(per_octave * np.log2(highest / _LOWEST_HZ) - 1e-9))
    return np.asarray(_LOWEST_HZ * 2 ** (np.arange(count) / per_octave))


def band_energies(
    signal: NDArray[np.floating], sample_rate: int, per_octave: int = 1
) -> NDArray[np.float64]:
    """Compute the energy of a signal in bands of equal width on a logarithmic axis.

    The signal, shape (C, T), is faded in and out over 50 ms, because a hard cut has energy in all
    bands. The edges of a band are half a band from its centre.

    Returns:
        Sum of squared samples over channels in each band, shape (bands,).
    """
    import scipy.fft  # here, because help and mistakes do not need it

    centres = band_centres(sample_rate, per_octave)
    samples = signal.shape[-1]
    length = scipy.fft.next_fast_len(samples, real=True)
    fade = min(round(_FADE_SECONDS * sample_rate), samples // 2)
    ramp = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / max(1, fade)) ** 2
    window = np.concatenate([ramp, np.ones(samples - 2 * fade), ramp[::-1]])
    # (C, T) -> (bins,). Parseval: all bins except the first and last have the weight 2.
    power = 2 * np.square(np.abs(scipy.fft.rfft(signal * window, length, axis=-1))).sum(0) / length
    edges = np.append(centres * 2 ** (-0.5 / per_octave), centres[-1] * 2 ** (0.5 / per_octave))
    bins = np.ceil(edges * length / sample_rate).astype(int).clip(0, len(power))
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    return np.asarray(sums[bins[1:]] - sums[bins[:-1]])
