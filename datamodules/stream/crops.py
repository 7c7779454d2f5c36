"""Which crops make an example: a pure function of (seed, epoch, index).

Nothing here has state, so any number of ranks, workers or restarts sees the same stream. Random
numbers come from Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
function of a key (the seed) and a counter (purpose, epoch and index). Caches hold results of pure
functions and are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.randomness import CROP, ROOT_ORDER, TRACK_ORDER, Position, generator
from datamodules.stream.crop_starts import LoudnessSampler, uniform_starts
from datamodules.stream.loudness import Powers

# Consecutive examples that are distributed over the roots by weight and then shuffled: any part of
# the stream holds each root in proportion to its weight, to within a few examples.
_BLOCK = 16


@dataclass(frozen=True)
class SamplingConfig:
    """How tracks and starts of crops are drawn.

    Attributes:
        mix_probability: Probability that an example's stems come from different tracks.
        avoid_silence_db: Level below which a crop is drawn again, dBFS; None keeps silent crops.
        silence_tries: Largest number of starts drawn; the last one is kept.
        loudness_classes: Number of loudness classes that are drawn equally often; see
            ``LoudnessSampler``.

    Raises:
        DataError: A value is out of range.
    """

    mix_probability: float = 0.5
    avoid_silence_db: float | None = None
    silence_tries: int = 10
    loudness_classes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.mix_probability <= 1:
            raise DataError(f"mix_probability is {self.mix_probability}: give a number from 0 to 1")
        level = self.avoid_silence_db
        if level is not None and not -120 <= level < 0:
            raise DataError(
                f"avoid_silence_db is {level}: give a level from -120 to below 0 dBFS, such as -60"
            )
        for name in ("silence_tries", "loudness_classes"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: give 1 or more")

    @property
    def needs_loudness(self) -> bool:
        """Whether drawing requires the loudness of the tracks."""
        return self.avoid_silence_db is not None or self.loudness_classes > 1


class Crop(NamedTuple):
    """Origin of an example's stems: a track and a start for each stem.

    Attributes:
        tracks: Index of the track of each stem, shape (stems,).
        starts: First sample of each stem, shape (stems,).
    """

    tracks: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


class CropSampler:
    """Draws the tracks and starts of examples.

    Tracks are drawn in random order without replacement: each pass over a root holds every one of
    its tracks once. In a mixed example each stem follows its own order of tracks; otherwise all
    stems follow that of the first stem and share one start.

    Several roots are interleaved by weight, as exactly as integers allow: seats are apportioned by
    the method of Webster and Sainte-Laguë (Balinski and Young 1982, "Fair Representation") in
    shuffled blocks, beginning at a random seat in each epoch.

    Args:
        seed: Seed of the stream.
        config: How tracks and starts are drawn.
        stems: Number of stems.
        lengths: Length of each track in samples, one array of shape (tracks,) per root.
        weights: Relative frequency of each root.
        powers: Mean square of each second of each track, over all roots, shape (stems, seconds);
            used only if ``config.needs_loudness``.
        sample_rate: Sample rate, Hz; likewise.
    """

    def __init__(
        self,
        seed: int,
        config: SamplingConfig,
        stems: int,
        lengths: Sequence[npt.NDArray[np.int64]],
        weights: Sequence[float] = (1.0,),
        powers: Sequence[Powers] = (),
        sample_rate: int = 44100,
    ) -> None:
        self.seed, self.config, self.stems = seed, config, stems
        self.lengths = np.concatenate(lengths)
        self.loudness = (
            LoudnessSampler(
                powers,
                self.lengths.tolist(),
                sample_rate,
                config.avoid_silence_db,
                config.loudness_classes,
            )
            if config.needs_loudness
            else None
        )
        self._weights = tuple(weight / math.fsum(weights) for weight in weights)
        self._sizes = [len(root) for root in lengths]
        self._offsets = [0, *np.cumsum(self._sizes).tolist()]

    def crop(self, position: Position, samples: int) -> Crop:
        """Draw one example.

        Args:
            position: Epoch and index of the example.
            samples: Length of the crop; a shorter track starts at 0.

        Returns:
            Tracks, numbered over all roots, and starts of the stems.
        """
        epoch, index = position
        tries = 1 if self.config.avoid_silence_db is None else self.config.silence_tries
        # One call for all numbers: creating the generator takes longer than drawing.
        numbers = generator(self.seed, CROP, epoch, index).random(1 + tries * self.stems)
        mixed = bool(numbers[0] < self.config.mix_probability)
        tracks = self._draw_tracks(epoch, index, mixed)
        uniforms = numbers[1:].reshape(tries, self.stems)
        return Crop(tracks, self._draw_starts(tracks, mixed, samples, uniforms))

    def _draw_starts(
        self,
        tracks: npt.NDArray[np.int64],
        mixed: bool,
        samples: int,
        uniforms: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.int64]:
        if self.loudness is None:
            first = uniforms[0] if mixed else uniforms[0, :1]
            return uniform_starts(self.lengths[tracks], samples, first)
        if not mixed:
            start = self.loudness.start(int(tracks[0]), None, samples, uniforms[:, 0])
            return np.full(self.stems, start)
        starts = [
            self.loudness.start(track, stem, samples, uniforms[:, stem])
            for stem, track in enumerate(tracks.tolist())
        ]
        return np.array(starts)

    def _draw_tracks(self, epoch: int, index: int, mixed: bool) -> npt.NDArray[np.int64]:
        block, place = divmod(index, _BLOCK)
        roots, earlier = _block_roots(self.seed, epoch, block, self.stems, self._weights)
        tracks = []
        for stem in range(self.stems if mixed else 1):
            root = roots[stem][place]
            passes, number = divmod(earlier[stem][place], self._sizes[root])
            stream = passes * len(self._sizes) + root
            order = _track_order(self.seed, epoch, stream, self.stems, self._sizes[root])
            tracks.append(self._offsets[root] + order[stem, number])
        return np.array(tracks if mixed else tracks * self.stems)


@lru_cache(maxsize=64)
def _track_order(
    seed: int, epoch: int, stream: int, stems: int, tracks: int
) -> npt.NDArray[np.int64]:
    """Order of the tracks in one pass over a root, for each stem, shape (stems, tracks)."""
    random = generator(seed, TRACK_ORDER, epoch, stream)
    order = random.permuted(np.tile(np.arange(tracks), (stems, 1)), axis=1)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=64)
def _block_roots(
    seed: int, epoch: int, block: int, stems: int, weights: tuple[float, ...]
) -> tuple[list[list[int]], list[list[int]]]:
    """Root of each example in a block, and how many earlier examples of the epoch it had.

    Both have the shape (stems, _BLOCK).
    """
    if len(weights) == 1:
        earlier = list(range(block * _BLOCK, (block + 1) * _BLOCK))
        return [[0] * _BLOCK] * stems, [earlier] * stems
    # Beginning at seat 0 in every epoch would never draw a root with a small weight.
    seat = int(generator(seed, ROOT_ORDER, epoch, 0).integers(2**20))
    first, begin, end = (
        apportion(seat + examples, weights)
        for examples in (0, block * _BLOCK, (block + 1) * _BLOCK)
    )
    roots = np.repeat(np.arange(len(weights)), end - begin)
    numbers = np.concatenate(
        [np.arange(*pair) for pair in zip(begin - first, end - first, strict=True)]
    )
    random = generator(seed, ROOT_ORDER, epoch, 1 + block)
    shuffled = random.permuted(np.tile(np.arange(_BLOCK), (stems, 1)), axis=1)
    return roots[shuffled].tolist(), numbers[shuffled].tolist()


def apportion(seats: int, weights: Sequence[float]) -> npt.NDArray[np.int64]:
    """Distribute seats by weights, which sum to 1, by the method of Webster and Sainte-Laguë.

    Seat k (from 0) of a root of weight p is assigned at time (k + 1/2) / p, and the earliest seats
    are taken. One more seat therefore adds to one root and removes from none.
    """
    shares = np.array(weights)
    # A time at which at most that many seats are assigned; the few missing ones follow one by one.
    time = seats - len(shares) / 2 - 1
    counts = np.maximum(0, np.floor(time * shares + 0.5)).astype(np.int64)
    for _ in range(seats - int(counts.sum())):
        counts[np.argmin((counts + 0.5) / shares)] += 1
    return counts
