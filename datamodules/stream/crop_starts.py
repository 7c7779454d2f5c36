"""Draw where in a track a crop starts: uniformly, or depending on the loudness of the crops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.stream.loudness import Powers

_Floats = npt.NDArray[np.float64]

# Lowest level of the loudness classes, dBFS; quieter crops are treated as having this level.
SILENT_DB = -60.0
# Number of stems whose tables are cached. A table takes 10 kB and is computed in microseconds.
_CACHED_STEMS = 4096


def uniform_starts(
    lengths: npt.ArrayLike, samples: int, uniforms: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Map uniform random numbers to starts of crops, all equally probable.

    Args:
        lengths: Lengths of the tracks, samples.
        samples: Length of the crops; in a shorter track the crop starts at 0.
        uniforms: Uniform random numbers in [0, 1), broadcast with the lengths.

    Returns:
        Starts, in the broadcast shape.
    """
    starts = np.maximum(np.subtract(lengths, samples), 0) + 1
    return np.asarray(uniforms * starts).astype(np.int64)


class _Seconds(NamedTuple):
    """Seconds of a track in which a crop can start.

    Attributes:
        cumulative: Sum of the probabilities of all earlier seconds, shape (seconds,).
        probabilities: Probability of each second, shape (seconds,).
        starts: Number of possible starts in each second, shape (seconds,).
    """

    cumulative: _Floats
    probabilities: _Floats
    starts: npt.NDArray[np.int64]


class LoudnessSampler:
    """Draws the starts of crops depending on the loudness of the crops.

    *Silence.* A crop whose root mean square is below a level is drawn again, up to a maximum number
    of tries. If all are silent, the last one is used. A stem that is silent throughout keeps its
    first draw. If all stems share one start, the sum of their mean squares is compared.

    *Loudness classes.* The levels in dB of all crops of a stem, from the quietest (not below -60
    dBFS) to the loudest, are divided into classes of equal width. Classes that contain crops have
    equal probabilities, and so have the starts within a class: a loud chorus and a quiet fade-out
    are drawn equally often, however long they last. Crops that start in the same second are treated
    as equally loud. (This definition is Stemlab's own; with a single class all starts are equally
    probable.)

    Skipping silence is common practice; Luo and Yu 2023, "Music Source Separation with Band-split
    RNN", detect active passages beforehand.

    Args:
        powers: For each track, the mean square of each second, shape (stems, seconds).
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
        self._silence_power = 0.0 if avoid_silence_db is None else 10 ** (avoid_silence_db / 10)
        self._classes = classes
        self._energies = lru_cache(_CACHED_STEMS)(self._cumulative_energies)
        self._seconds = lru_cache(_CACHED_STEMS)(self._probable_seconds)

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
            threshold = self._silence_power
            if threshold == 0 or self.power(track, stem, start, samples) >= threshold:
                break
            if self._powers_of(track, stem).max() < threshold:
                break
        return start

    def power(self, track: int, stem: int | None, start: int, samples: int) -> float:
        """Mean square of the part of a crop that lies within the track; full scale is 1.

        For stem None it is the sum over all stems.
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
        # Rounding could give a start after the last one of the second.
        return second * self._rate + np.minimum(within.astype(np.int64), starts[second] - 1)

    def _powers_of(self, track: int, stem: int | None) -> _Floats:
        powers = self._powers[track].astype(np.float64)
        row: _Floats = powers.sum(0) if stem is None else powers[stem]
        return row

    def _cumulative_energies(self, track: int, stem: int | None) -> tuple[_Floats, _Floats]:
        """Boundaries of the seconds, samples, and the energy before each boundary."""
        row = self._powers_of(track, stem)
        bounds = np.minimum(np.arange(len(row) + 1) * float(self._rate), self._lengths[track])
        return bounds, np.concatenate([[0.0], np.cumsum(row * np.diff(bounds))])

    def _probable_seconds(self, track: int, stem: int | None, samples: int) -> _Seconds:
        length = self._lengths[track]
        total_starts = max(length - samples, 0) + 1
        firsts = np.arange(0, total_starts, self._rate)
        starts = np.minimum(firsts + self._rate, total_starts) - firsts
        ends = np.minimum(firsts + samples, length)
        bounds, energies = self._energies(track, stem)
        powers = (np.interp(ends, bounds, energies) - np.interp(firsts, bounds, energies)) / (
            ends - firsts
        )
        levels = 10 * np.log10(np.maximum(powers, 10 ** (SILENT_DB / 10)))
        width = np.ptp(levels) / self._classes or 1.0  # 0: all crops are equally loud
        classes = ((levels - levels.min()) / width).astype(int).clip(max=self._classes - 1)
        sizes = np.bincount(classes, starts)
        probabilities = starts / sizes[classes] / np.count_nonzero(sizes)
        return _Seconds(np.cumsum(probabilities) - probabilities, probabilities, starts)
