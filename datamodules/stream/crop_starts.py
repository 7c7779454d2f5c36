"""Where in a track a crop starts: uniformly, or by the loudness of the crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.stream.loudness import Powers

_Floats = npt.NDArray[np.float64]

# Loudness classes treat all levels below this as equally silent, dBFS.
SILENT_DB = -60.0
# Number of stems whose tables are cached; a table has 10 kB and is computed in microseconds.
_CACHED_STEMS = 4096


def uniform_starts(
    lengths: npt.ArrayLike, samples: int, uniforms: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Draw the first samples of crops, all equally probable.

    Args:
        lengths: Lengths of the tracks, samples.
        samples: Length of the crops; in a shorter track the crop starts at 0.
        uniforms: Uniform random numbers in [0, 1); broadcast with the lengths.

    Returns:
        Starts, in the broadcast shape.
    """
    starts = np.maximum(np.subtract(lengths, samples), 0) + 1
    return np.asarray(uniforms * starts).astype(np.int64)


class _Seconds(NamedTuple):
    """Seconds of a track, each of which is a range of starts.

    Attributes:
        cumulative: Probability of all seconds before each, shape (seconds,).
        probabilities: Probability of each second, shape (seconds,).
        starts: Number of starts in each second, shape (seconds,).
    """

    cumulative: _Floats
    probabilities: _Floats
    starts: npt.NDArray[np.int64]


class LoudnessSampler:
    """Draws the starts of crops by the loudness of the crops.

    *Silence.* A crop whose root mean square is below a level is drawn again, up to a number of
    tries; the last try is kept. A stem that is silent throughout keeps its first draw. Where all
    stems come from the same place of a track, the sum of their mean squares is compared.

    *Loudness classes.* The levels in dB of all crops of a stem, from the quietest (not below -60
    dBFS) to the loudest, are divided into classes of equal width. Classes that hold crops are all
    drawn equally often, and so are the starts in a class: a chorus and a fade-out have the same
    probability, however long they last. Crops that start in the same second count as equally loud.
    (This definition is Stemlab's own; a single class makes all starts equally probable.)

    Skipping silence is common practice; Luo and Yu 2023, "Music Source Separation with Band-split
    RNN", detect active passages beforehand.

    Args:
        powers: Mean square of each second of each track, shape (stems, seconds).
        lengths: Length of each track, samples.
        sample_rate: Sample rate, Hz.
        avoid_silence_db: Level below which a crop is drawn again, dBFS; by default silent crops are
            kept.
        classes: Number of loudness classes.
    """

    def __init__(
        self,
        powers: Sequence[Powers],
        lengths: Sequence[int],
        sample_rate: int,
        avoid_silence_db: float | None = None,
        classes: int = 1,
    ) -> None:
        self._arguments = powers, lengths, sample_rate, avoid_silence_db, classes
        self._powers, self._lengths, self._rate = powers, lengths, sample_rate
        self._silent = 0.0 if avoid_silence_db is None else 10 ** (avoid_silence_db / 10)
        self._classes = classes
        self._energies = lru_cache(_CACHED_STEMS)(self._find_energies)
        self._seconds = lru_cache(_CACHED_STEMS)(self._find_seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        # Caches cannot be pickled; each process fills its own.
        return LoudnessSampler, self._arguments

    def start(self, track: int, stem: int | None, samples: int, uniforms: _Floats) -> int:
        """Draw the start of a crop.

        Args:
            track: Index of the track.
            stem: Index of the stem, or None for all stems together.
            samples: Length of the crop.
            uniforms: Uniform random numbers in [0, 1), one per try, shape (tries,).

        Returns:
            First sample of the crop; 0 in a track that is shorter.
        """
        start = 0
        for start in self._draw(track, stem, samples, uniforms).tolist():
            if self._silent == 0 or self.power(track, stem, start, samples) >= self._silent:
                break
            if self._powers_of(track, stem).max() < self._silent:
                break
        return start

    def power(self, track: int, stem: int | None, start: int, samples: int) -> float:
        """Mean square of a crop, without padding; full scale is 1.

        Stem None is the sum over all stems.
        """
        bounds, energies = self._energies(track, stem)
        end = min(start + samples, self._lengths[track])
        first, last = np.interp((start, end), bounds, energies)
        return float(last - first) / (end - start)

    def _draw(
        self, track: int, stem: int | None, samples: int, uniforms: _Floats
    ) -> npt.NDArray[np.int64]:
        if self._classes == 1:
            return uniform_starts(self._lengths[track], samples, uniforms)
        cumulative, probabilities, starts = self._seconds(track, stem, samples)
        second = np.searchsorted(cumulative, uniforms, "right") - 1
        within = (uniforms - cumulative[second]) / probabilities[second] * starts[second]
        # Rounding may exceed the last start.
        return second * self._rate + np.minimum(within.astype(np.int64), starts[second] - 1)

    def _powers_of(self, track: int, stem: int | None) -> _Floats:
        powers = self._powers[track].astype(np.float64)
        row: _Floats = powers.sum(0) if stem is None else powers[stem]
        return row

    def _find_energies(self, track: int, stem: int | None) -> tuple[_Floats, _Floats]:
        """Boundaries of the seconds in samples, and the energy before each."""
        row = self._powers_of(track, stem)
        bounds = np.minimum(np.arange(len(row) + 1) * float(self._rate), self._lengths[track])
        return bounds, np.concatenate([[0.0], np.cumsum(row * np.diff(bounds))])

    def _find_seconds(self, track: int, stem: int | None, samples: int) -> _Seconds:
        length = self._lengths[track]
        count = max(length - samples, 0) + 1
        firsts = np.arange(0, count, self._rate)
        starts = np.minimum(firsts + self._rate, count) - firsts
        ends = np.minimum(firsts + samples, length)
        bounds, energies = self._energies(track, stem)
        powers = (np.interp(ends, bounds, energies) - np.interp(firsts, bounds, energies)) / (
            ends - firsts
        )
        levels = 10 * np.log10(np.maximum(powers, 10 ** (SILENT_DB / 10)))
        width = np.ptp(levels) / self._classes or 1.0  # 0: all crops are equally loud
        numbers = ((levels - levels.min()) / width).astype(int).clip(max=self._classes - 1)
        sizes = np.bincount(numbers, starts)
        probabilities = starts / sizes[numbers] / np.count_nonzero(sizes)
        return _Seconds(np.cumsum(probabilities) - probabilities, probabilities, starts)
