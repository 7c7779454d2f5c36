"""Recordings that are the same by their sound, whatever their files look like.

A fingerprint is a coarse spectrogram: log energy in 20 bands, ten times a second, of which
each band's and each frame's mean is taken off. So neither gain nor equalisation counts, nor
the beat that songs of one tempo share, but how the bands take turns. Two songs are as alike
as the correlation of their fingerprints at the best shift in time.

Measured in 2026 on 25 recordings (five CC0 songs of one artist, the 18 of the embedded corpus,
two excerpts of MUSDB18): the most alike of 300 pairs of different songs correlate by 0.21, half
of them by less than 0.10. Copies of each: MP3 at 64 kbit/s 0.99; AAC at 96 kbit/s, 12 dB
softer and later by half a frame, the worst shift there is, 0.74; Vorbis at its lowest quality
without its first 15 % 0.85; the middle 30 % alone 0.81; one channel 0.92; equalised by +-6 dB
and limited 0.99; noise at -20 dB 0.95. Hence the threshold in the middle, `SAME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

FRAMES_PER_SECOND = 10
SAME = 0.5

Fingerprint = npt.NDArray[np.float32]
"""Coarse spectrogram, free of gain, shape (bands, frames)."""

Spectrum = npt.NDArray[np.complex64]

_BANDS = 20
# What telephones and the lowest bit rates keep, too.
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 3600.0
# Softer than a band's mean by more than this (20 dB), differences do not count: codecs drop them.
_FLOOR = 1e-2
# With less in common chance correlates: 10 seconds, or of shorter songs the most.
_OVERLAP_FRAMES = 10 * FRAMES_PER_SECOND
_OVERLAP_SHARE = 0.8
# Tracks compared with all others at once; bounds the memory for spectra.
_TILE = 64


class Pair(NamedTuple):
    """Two recordings that are alike.

    Attributes:
        first: Number of the one.
        second: Number of the other, the larger number.
        correlation: How alike they are, at most 1.
        shift_seconds: How much later the second has it.
    """

    first: int
    second: int
    correlation: float
    shift_seconds: float


class Fingerprinter:
    """Takes a fingerprint of audio that comes in blocks.

    Args:
        sample_rate: Sample rate, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._hop = max(1, round(sample_rate / FRAMES_PER_SECOND))
        window_samples = 2 * self._hop
        self._window = np.hanning(window_samples).astype(np.float32)
        edges_hz = np.geomspace(_LOWEST_HZ, min(_HIGHEST_HZ, 0.45 * sample_rate), _BANDS + 1)
        self._edges = np.round(edges_hz * window_samples / sample_rate).astype(np.int64)
        self._tail = np.zeros(0, np.float32)
        self._energies: list[npt.NDArray[np.float32]] = []

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, audio: npt.NDArray[np.float32]) -> None:
        """Listen to the next block.

        Args:
            audio: Waveform, shape (C, T).
        """
        heard = np.concatenate([self._tail, audio.mean(0)])
        count = max(0, (len(heard) - len(self._window)) // self._hop + 1)
        if count:
            windows = np.lib.stride_tricks.sliding_window_view(heard, len(self._window))
            spectrum = np.fft.rfft(windows[: count * self._hop : self._hop] * self._window)
            power = spectrum.real**2 + spectrum.imag**2
            self._energies.append(np.add.reduceat(power, self._edges, axis=1)[:, :-1])
        self._tail = heard[count * self._hop :]

    @np.errstate(over="ignore", invalid="ignore")
    def fingerprint(self) -> Fingerprint:
        """What was heard; of silence, or of less than two frames, an empty one."""
        if not self._energies:
            return np.zeros((_BANDS, 0), np.float32)
        energies = np.concatenate(self._energies).T
        mean = energies.mean(1, keepdims=True)
        levels = np.log(energies + _FLOOR * mean + np.finfo(np.float32).tiny)
        levels -= levels.mean(1, keepdims=True)
        levels -= levels.mean(0)
        size = np.sqrt(np.square(levels).mean())
        if not size > 1e-3:  # silence; or samples beyond all measure, whose size is not a number
            return np.zeros((_BANDS, 0), np.float32)
        normed: Fingerprint = (levels / size).astype(np.float32)
        return normed


def find_same(
    fingerprints: Sequence[Fingerprint], progress: bool = False, threshold: float = SAME
) -> list[Pair]:
    """Compare every recording with every other.

    Takes 0.3 ms of one core a pair of four-minute songs.

    Args:
        fingerprints: One for each recording; empty ones are like none.
        progress: Show a progress bar, if it takes more than a second.
        threshold: Correlation from which two are the same.

    Returns:
        The pairs that are alike, in the order of their numbers.
    """
    heard = [number for number, each in enumerate(fingerprints) if each.shape[1]]
    longest = max((fingerprints[number].shape[1] for number in heard), default=0)
    size = 1 << max(1, 2 * longest - 1).bit_length()
    energies = [_cumulative_energy(each) for each in fingerprints]
    pairs: list[Pair] = []
    rounds = [
        (heard[start : start + _TILE], second)
        for start in range(0, len(heard), _TILE)
        for second in heard[start + 1 :]
    ]
    spectra: dict[int, Spectrum] = {}
    for tile, second in tqdm(
        rounds, "comparing tracks", delay=1, leave=False, disable=not progress
    ):
        if tile[0] not in spectra:
            spectra = {number: _spectrum(fingerprints[number], size) for number in tile}
        spectrum = spectra[second] if second in spectra else _spectrum(fingerprints[second], size)
        for first in (number for number in tile if number < second):
            product = np.einsum("bf,bf->f", spectrum, spectra[first].conj())
            products = np.fft.irfft(product, size)
            alike = _best_shift(products, energies[first], energies[second])
            if alike[0] >= threshold:
                pairs.append(Pair(first, second, *alike))
    return sorted(pairs)


def _spectrum(fingerprint: Fingerprint, size: int) -> Spectrum:
    return np.fft.rfft(fingerprint, size).astype(np.complex64)


def _cumulative_energy(fingerprint: Fingerprint) -> npt.NDArray[np.float64]:
    """Energy of the first n frames, for n from 0 to all of them."""
    energy = np.square(fingerprint).sum(0, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(energy)])


def _best_shift(
    products: npt.NDArray[np.floating],
    first_energy: npt.NDArray[np.float64],
    second_energy: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """Correlation at the best shift, and that shift in seconds.

    Args:
        products: Circular cross-correlation: sum over bands and frames t of first[t] times
            second[t + shift].
        first_energy: Cumulative energy of the first, shape (n + 1,).
        second_energy: Cumulative energy of the second, shape (m + 1,).
    """
    n, m = len(first_energy) - 1, len(second_energy) - 1
    least = min(_OVERLAP_FRAMES, max(1, int(_OVERLAP_SHARE * min(n, m))))
    shifts = np.arange(least - n, m - least + 1)
    # Normed by the energy of what overlaps, from cumulative energies at its ends.
    begin, end = np.maximum(0, -shifts), np.minimum(n, m - shifts)
    energy = (first_energy[end] - first_energy[begin]) * (
        second_energy[end + shifts] - second_energy[begin + shifts]
    )
    # Nearly silent overlaps correlate by chance.
    floor = 0.01 * (_BANDS * (end - begin)) ** 2
    correlation = np.where(energy > floor, products[shifts] / np.sqrt(energy + 1e-9), 0.0)
    best = int(correlation.argmax())
    return float(correlation[best]), float(shifts[best]) / FRAMES_PER_SECOND
