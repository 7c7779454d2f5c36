"""Correlations of sections of audio at few lags, by short FFTs.

Signals are numbered by source, then channel: P = sources times channels. Correlations of adjoining
sections and those across their borders add up to those of the whole signal, so one pass over the
audio gives the correlations of every frame and of the track.
"""

import threading

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Signals = NDArray[np.generic]

_MIN_FFT = 2048  # shorter ones are slower because of more calls
_BLOCKS = 16  # in one matrix product; few enough for the CPU cache


class Correlator(threading.local):
    """Correlate sections, at most `longest` samples long, of references and estimates (S, T, C).

    Correlations are at F = `taps` lags and need `result_bytes` per section. Buffers are reused
    between sections; each thread has its own.
    """

    def __init__(self, references: Signals, estimates: Signals, taps: int, longest: int) -> None:
        self._references, self._estimates = references, estimates
        self._sources, _, self._channels = references.shape
        self._past = taps - 1
        self._n_fft = fft_length(longest, taps)
        self._hop = self._n_fft - self._past  # new samples per block, so that no lag wraps around
        blocks = max(1, -(-longest // self._hop))
        blocks = -(-blocks // -(-blocks // _BLOCKS))  # the same number in each round
        signals, bins = self._sources * self._channels, self._n_fft // 2 + 1
        # References then estimates, preceded by the past samples.
        self._audio = np.zeros((2 * signals, self._past + blocks * self._hop))
        # One block of both without past samples, then of references with them.
        self._waves = np.zeros((3 * signals, self._n_fft))
        self._spectra = np.empty((3 * signals, bins), np.complex128)
        # Bins first: one small matrix product per bin sums over blocks.
        self._by_bin = np.empty((bins, blocks, 3 * signals), np.complex128)
        self.result_bytes = 2 * signals**2 * taps * self._audio.itemsize

    def section(self, start: int, stop: int) -> tuple[Array, Array]:
        """Correlate samples start ... stop - 1, with zeros around them.

        Returns:
            sum_n y_q[n] x_k[n - l] for all references, then estimates, y and all references x,
            shape (2 P, P, F); and |s|^2, |e|^2, |e - s|^2 of each source, shape (3, S).
        """
        past, hop = self._past, self._hop
        signals, size = len(self._audio) // 2, self._audio.shape[1] - past
        energies = np.zeros((3, self._sources))
        total = np.zeros((), np.complex128)
        self._audio[:, :past] = 0
        for first in range(start, stop, size) or [start]:
            energies += self._load(first, min(stop, first + size))
            for block in range(self._by_bin.shape[1]):
                begin, end = block * hop, block * hop + self._n_fft
                self._waves[: 2 * signals, past:] = self._audio[:, begin + past : end]
                self._waves[2 * signals :] = self._audio[:signals, begin:end]
                np.fft.rfft(self._waves, out=self._spectra)
                np.conjugate(self._spectra[2 * signals :], out=self._spectra[2 * signals :])
                self._by_bin[:, block] = self._spectra.T
            delayed, present = self._by_bin[..., 2 * signals :], self._by_bin[..., : 2 * signals]
            total = total + delayed.swapaxes(1, 2) @ present
            self._audio[:, :past] = self._audio[:, size:].copy()
        spectrum = np.ascontiguousarray(total.transpose(2, 1, 0))
        # A copy, so that the unused lags are freed.
        return np.fft.irfft(spectrum, self._n_fft)[..., : past + 1].copy(), energies

    def _load(self, start: int, stop: int) -> Array:
        """Load samples after the past ones, as float64, and return their energies."""
        signals, length = len(self._audio) // 2, stop - start
        audio = self._audio[:, self._past :]
        shape = (self._sources, self._channels, -1)
        for first, waveform in ((0, self._references), (signals, self._estimates)):
            rows = audio[first : first + signals].reshape(shape)
            rows[..., :length] = waveform[:, start:stop].transpose(0, 2, 1)
        audio[:, length:] = 0
        reference, estimate = audio[:signals, :length], audio[signals:, :length]
        waves = (reference, estimate, estimate - reference)
        powers = [np.einsum("pt,pt->p", wave, wave) for wave in waves]
        energies: Array = np.reshape(powers, (3, *shape[:2])).sum(axis=2)
        return energies

    def borders(self, sections: list[tuple[int, int]]) -> Array:
        """Correlate the beginnings of sections, all but the first, with the samples before them.

        Returns:
            The sum over borders of sum_n y_q[n] x_k[n - l], n in the section and n - l before it;
            shape (2 P, P, F).
        """
        past, signals = self._past, len(self._audio) // 2
        n_fft = power_of_two(2 * past + 1)
        total = np.zeros((2 * signals, signals, n_fft // 2 + 1), np.complex128)
        for start, stop in sections:
            before, after = max(0, start - past), min(stop, start + past)
            waves = np.zeros((3 * signals, n_fft))
            for row, waveform, first, last in (
                (0, self._references, start, after),
                (1, self._estimates, start, after),
                (2, self._references, before, start),
            ):
                rows = waveform[:, first:last].transpose(0, 2, 1).reshape(signals, -1)
                column = past + first - start
                waves[row * signals : (row + 1) * signals, column : column + last - first] = rows
            spectra = np.fft.rfft(waves)
            total += spectra[: 2 * signals, None] * spectra[2 * signals :].conj()
        return np.fft.irfft(total, n_fft)[..., : past + 1]


def fft_length(samples: int, taps: int) -> int:
    """Length of the FFTs that correlate at `taps` lags, a power of two."""
    return power_of_two(min(samples + taps - 1, max(4 * taps, _MIN_FFT)))


def power_of_two(number: int) -> int:
    """The next power of two, at least 2."""
    return max(2, 1 << (number - 1).bit_length())
