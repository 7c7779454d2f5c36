"""Which example is which: a pure function of (seed, epoch, index).

Nothing here has a state, so any number of ranks, workers or restarts sees the
same stream. The random numbers come from Philox (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), whose output is a function of a key and a
counter: the seed is the key; purpose, epoch and index are the counter. What is
kept between calls are results of pure functions, a bounded number of them.
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
from datamodules.stream.loudness import LoudnessSampler, Powers

# Examples among which the roots are shared out and then shuffled: any stretch of the stream
# holds them by their weights, to within a few examples.
_BLOCK = 16


@dataclass(frozen=True)
class SamplingConfig:
    """How places are drawn.

    Attributes:
        mix_probability: Probability that an example's stems come from different tracks.
        avoid_silence_db: A crop whose level is below this is drawn again, dBFS.
        silence_tries: Starts drawn at most; the last one counts, whatever it holds.
        loudness_classes: Number of loudness classes that are met equally often; see
            ``datamodules.stream.loudness``.

    Raises:
        DataError: A value makes no sense.
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
                raise DataError(f"{name} is {getattr(self, name)}: give a number from 1 on")

    @property
    def need_loudness(self) -> bool:
        """Whether the loudness of the tracks has a say."""
        return self.avoid_silence_db is not None or self.loudness_classes > 1


class Crop(NamedTuple):
    """Where an example's stems come from.

    Attributes:
        tracks: Number of the track of each stem, shape (stems,).
        starts: First sample of the crop of each stem, shape (stems,).
    """

    tracks: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


class CropSampler:
    """Draws the tracks and the starts of examples.

    Tracks come in a random order without replacement: each pass through a root holds
    every one of its tracks once. When an example is mixed, each of its stems follows
    an order of its own; otherwise all follow the first stem's, to one place of one track.

    Of several roots each gets its share of any stretch of the examples, as exactly as
    whole numbers allow: seats are apportioned by the method of Webster and
    Sainte-Laguë (Balinski and Young 1982, "Fair Representation"), in blocks that are
    shuffled, from a random seat on in each epoch.

    Args:
        seed: Seed of the run.
        rules: How places are drawn.
        stems: Number of stems.
        lengths: Length of each track in samples, one array a root, shape (tracks,).
        weights: How often each root is drawn, relative to the others.
        powers: Of each track, through all roots, mean square of each second, shape (stems,
            seconds); only if the rules need loudness.
        sample_rate: Sample rate, Hz; only then too.
    """

    def __init__(
        self,
        seed: int,
        rules: SamplingConfig,
        stems: int,
        lengths: Sequence[npt.NDArray[np.int64]],
        weights: Sequence[float] = (1.0,),
        powers: Sequence[Powers] = (),
        sample_rate: int = 44100,
    ) -> None:
        self.seed, self.rules, self.stems = seed, rules, stems
        self.lengths = np.concatenate(lengths)
        self.starts = (
            LoudnessSampler(
                powers,
                self.lengths.tolist(),
                sample_rate,
                rules.avoid_silence_db,
                rules.loudness_classes,
            )
            if rules.need_loudness
            else None
        )
        self._weights = tuple(weight / math.fsum(weights) for weight in weights)
        self._sizes = [len(root) for root in lengths]
        self._firsts = [0, *np.cumsum(self._sizes).tolist()]

    def crop(self, position: Position, segment_samples: int) -> Crop:
        """Draw one example.

        Args:
            position: Epoch of the example and its index there.
            segment_samples: Length of the crop; a shorter track starts at 0.

        Returns:
            Tracks, numbered through all roots, and starts of the stems.
        """
        epoch, index = position
        tries = 1 if self.rules.avoid_silence_db is None else self.rules.silence_tries
        # All numbers of an example at once: to make the generator takes longer than to draw.
        uniform = generator(self.seed, CROP, epoch, index).random(1 + tries * self.stems)
        mixed = bool(uniform[0] < self.rules.mix_probability)
        tracks = self._tracks(epoch, index, mixed)
        uniforms = uniform[1:].reshape(tries, self.stems)
        if self.starts is None:
            first = uniforms[0] if mixed else uniforms[0, :1]
            places = np.maximum(self.lengths[tracks] - segment_samples, 0) + 1
            return Crop(tracks, (first * places).astype(np.int64))
        if mixed:
            starts = [
                self.starts.start(track, stem, segment_samples, uniforms[:, stem])
                for stem, track in enumerate(tracks.tolist())
            ]
        else:
            start = self.starts.start(int(tracks[0]), None, segment_samples, uniforms[:, 0])
            starts = [start] * self.stems
        return Crop(tracks, np.array(starts))

    def _tracks(self, epoch: int, index: int, mixed: bool) -> npt.NDArray[np.int64]:
        block, place = divmod(index, _BLOCK)
        roots, passed = _roots(self.seed, epoch, block, self.stems, self._weights)
        tracks = []
        for stem in range(self.stems if mixed else 1):
            root = roots[stem][place]
            turn, number = divmod(passed[stem][place], self._sizes[root])
            order = _order(
                self.seed, epoch, turn * len(self._sizes) + root, self.stems, self._sizes[root]
            )
            tracks.append(self._firsts[root] + order[stem, number])
        return np.array(tracks if mixed else tracks * self.stems)


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, turn: int, stems: int, tracks: int) -> npt.NDArray[np.int64]:
    """Order of the tracks in one pass, for each stem, shape (stems, tracks)."""
    random = generator(seed, TRACK_ORDER, epoch, turn)
    order = random.permuted(np.tile(np.arange(tracks), (stems, 1)), axis=1)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=64)
def _roots(
    seed: int, epoch: int, block: int, stems: int, weights: tuple[float, ...]
) -> tuple[list[list[int]], list[list[int]]]:
    """DatasetRoots of the examples of a block, and how many of the epoch's came from there before.

    Both have the shape (stems, _BLOCK).
    """
    if len(weights) == 1:
        before = list(range(block * _BLOCK, (block + 1) * _BLOCK))
        return [[0] * _BLOCK] * stems, [before] * stems
    # From seat 0 on, a root of small weight would not be met in any epoch.
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
    """Share seats out by weight, by the method of Webster and Sainte-Laguë.

    Seat k (from 0 on) of a root of weight p comes at time (k + 1/2) / p; the seats are
    those that come first. So each further seat adds to one root and takes from none.

    Args:
        seats: Number of seats.
        weights: Weight of each root; they add up to 1.

    Returns:
        Seats of each root, shape (roots,).
    """
    shares = np.array(weights)
    # Until this time no more seats than there are can have come; the few that are missing
    # follow one by one.
    time = seats - len(shares) / 2 - 1
    counts = np.maximum(0, np.floor(time * shares + 0.5)).astype(np.int64)
    for _ in range(seats - int(counts.sum())):
        counts[np.argmin((counts + 0.5) / shares)] += 1
    return counts
