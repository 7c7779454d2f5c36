"""Choice of the crops of each training example: a pure function of (seed, epoch, index).

Nothing here has state, so the examples are the same for any number of ranks, workers or restarts.
Random numbers come from Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
a function of a key (the seed) and a counter (purpose, epoch and index). Only results of pure
functions are cached.
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

# Number of consecutive examples that are distributed over the roots by weight and then shuffled.
# Any range of examples therefore contains each root in proportion to its weight, to within a few
# examples.
_BLOCK = 16


@dataclass(frozen=True)
class SamplingConfig:
    """How tracks and starts of crops are drawn.

    Attributes:
        mix_probability: Probability that an example's stems come from different tracks.
        avoid_silence_db: Level below which a crop is drawn again, dBFS; None keeps silent crops.
        silence_tries: Maximum number of starts drawn; if all are silent, the last one is used.
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
            raise DataError(f"mix_probability is {self.mix_probability}: must be from 0 to 1")
        level = self.avoid_silence_db
        if level is not None and not -120 <= level < 0:
            raise DataError(
                f"avoid_silence_db is {level}: must be at least -120 and below 0 dBFS, such as -60"
            )
        for name in ("silence_tries", "loudness_classes"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: must be at least 1")

    @property
    def needs_loudness(self) -> bool:
        """Whether drawing requires the loudness of the tracks."""
        return self.avoid_silence_db is not None or self.loudness_classes > 1


class Pool(NamedTuple):
    """Tracks that can be drawn for a stem, by root; roots without such tracks are left out.

    Attributes:
        roots: Numbers of the roots.
        weights: Relative frequency of each of these roots, with the sum 1.
        tracks: Indices of the tracks of each of these roots.
    """

    roots: tuple[int, ...]
    weights: tuple[float, ...]
    tracks: tuple[npt.NDArray[np.int64], ...]


class Crop(NamedTuple):
    """Track and start of each stem of an example.

    Attributes:
        tracks: Index of the track of each stem, shape (stems,); -1 for silence.
        starts: First sample of each stem, shape (stems,).
    """

    tracks: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


class CropSampler:
    """Draws the tracks and starts of examples.

    Tracks are drawn in random order without replacement: each pass over a root contains every track
    once. In a mixed example each stem has its own order of those tracks from which it may be drawn.
    Otherwise all stems use the order of the first stem and the same start. If there are no whole
    tracks, all examples are mixed.

    With several roots, the number of examples from each root is as close to its weight as integers
    allow. Examples ("seats") are assigned to roots by the method of Webster and Sainte-Laguë
    (Balinski and Young 1982, "Fair Representation") and shuffled in blocks. Each epoch begins at a
    random seat.

    Args:
        seed: Seed of the examples.
        config: How tracks and starts are drawn.
        stems: Number of stems.
        lengths: Length of each track in samples, one array of shape (tracks,) per root.
        weights: Relative frequency of each root.
        powers: For each track of all roots, the mean square of each second, shape (stems, seconds);
            used only if ``config.needs_loudness``.
        sample_rate: Sample rate, Hz; used only if ``config.needs_loudness``.
        usable: Whether a stem of a track may be drawn in a mixed example, shape (tracks, stems);
            by default all may. For a stem without any the track is -1.
        whole: Whether a track may be drawn with all stems, shape (tracks,); by default all may.
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
        usable: npt.NDArray[np.bool_] | None = None,
        whole: npt.NDArray[np.bool_] | None = None,
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
        self._roots = len(lengths)
        sizes = [len(root) for root in lengths]
        if usable is None:
            usable = np.ones((sum(sizes), stems), bool)
        if whole is None:
            whole = np.ones(sum(sizes), bool)
        self._pools = [_pool(usable[:, stem], sizes, weights) for stem in range(stems)]
        self._whole = _pool(whole, sizes, weights)

    def crop(self, position: Position, samples: int) -> Crop:
        """Draw one example.

        Args:
            position: Epoch and index of the example.
            samples: Length of the crop; in a shorter track the crop starts at 0.

        Returns:
            Track index, counted over all roots, and start of each stem.
        """
        tries = 1 if self.config.avoid_silence_db is None else self.config.silence_tries
        # All random numbers in one call, because creating the generator takes longer than drawing.
        numbers = generator(self.seed, CROP, *position).random(1 + tries * self.stems)
        mixed = self._is_mixed(numbers[0])
        tracks = self._draw_tracks(*position, mixed)
        uniforms = numbers[1:].reshape(tries, self.stems)
        return Crop(tracks, self._draw_starts(tracks, mixed, samples, uniforms))

    def tracks(self, position: Position) -> npt.NDArray[np.int64]:
        """The tracks of one example, as in the result of `crop`."""
        mixed = self._is_mixed(generator(self.seed, CROP, *position).random())
        return self._draw_tracks(*position, mixed)

    def _is_mixed(self, uniform: float) -> bool:
        return bool(uniform < self.config.mix_probability) or not self._whole.roots

    def _draw_starts(
        self,
        tracks: npt.NDArray[np.int64],
        mixed: bool,
        samples: int,
        uniforms: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.int64]:
        if self.loudness is None:
            first_try = uniforms[0] if mixed else uniforms[0, :1]
            return uniform_starts(self.lengths[tracks], samples, first_try)
        if not mixed:
            start = self.loudness.start(int(tracks[0]), None, samples, uniforms[:, 0])
            return np.full(self.stems, start)
        starts = [
            self.loudness.start(track, stem, samples, uniforms[:, stem])
            for stem, track in enumerate(tracks.tolist())
        ]
        return np.array(starts)

    def _draw_tracks(self, epoch: int, index: int, mixed: bool) -> npt.NDArray[np.int64]:
        if mixed:
            return np.array(
                [self._draw_track(epoch, index, *drawn) for drawn in enumerate(self._pools)]
            )
        return np.full(self.stems, self._draw_track(epoch, index, 0, self._whole))

    def _draw_track(self, epoch: int, index: int, stem: int, pool: Pool) -> int:
        if not pool.roots:
            return -1
        block, index_in_block = divmod(index, _BLOCK)
        roots, earlier = _block_roots(self.seed, epoch, block, self.stems, pool.weights)
        number = roots[stem][index_in_block]
        tracks = pool.tracks[number]
        passes, index_in_pass = divmod(earlier[stem][index_in_block], len(tracks))
        pass_number = passes * self._roots + pool.roots[number]  # over all roots
        order = _track_order(self.seed, epoch, pass_number, self.stems, len(tracks))
        return int(tracks[order[stem, index_in_pass]])


def _pool(usable: npt.NDArray[np.bool_], sizes: Sequence[int], weights: Sequence[float]) -> Pool:
    """The pool of the usable tracks, given the number of tracks of each root."""
    found = np.flatnonzero(usable)
    by_root = np.split(found, np.searchsorted(found, np.cumsum(sizes)[:-1]))
    roots = tuple(root for root, tracks in enumerate(by_root) if len(tracks))
    total = math.fsum(weights[root] for root in roots)
    return Pool(
        roots,
        tuple(weights[root] / total for root in roots),
        tuple(by_root[root] for root in roots),
    )


@lru_cache(maxsize=64)
def _track_order(
    seed: int, epoch: int, pass_number: int, stems: int, tracks: int
) -> npt.NDArray[np.int64]:
    """Order of the tracks in one pass over a root, for each stem, shape (stems, tracks)."""
    random = generator(seed, TRACK_ORDER, epoch, pass_number)
    order = random.permuted(np.tile(np.arange(tracks), (stems, 1)), axis=1)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=64)
def _block_roots(
    seed: int, epoch: int, block: int, stems: int, weights: tuple[float, ...]
) -> tuple[list[list[int]], list[list[int]]]:
    """For each example of a block: its root, and the number of earlier examples with this root.

    Earlier examples are those of the same epoch. Both results have the shape (stems, _BLOCK).
    """
    if len(weights) == 1:
        earlier = list(range(block * _BLOCK, (block + 1) * _BLOCK))
        return [[0] * _BLOCK] * stems, [earlier] * stems
    # If every epoch began at seat 0, a root with a small weight would never be drawn.
    seat = int(generator(seed, ROOT_ORDER, epoch, 0).integers(2**20))
    first, begin, end = (
        apportion(seat + examples, weights)
        for examples in (0, block * _BLOCK, (block + 1) * _BLOCK)
    )
    roots = np.repeat(np.arange(len(weights)), end - begin)
    earlier_examples = np.concatenate(
        [np.arange(*pair) for pair in zip(begin - first, end - first, strict=True)]
    )
    random = generator(seed, ROOT_ORDER, epoch, 1 + block)
    shuffled = random.permuted(np.tile(np.arange(_BLOCK), (stems, 1)), axis=1)
    return roots[shuffled].tolist(), earlier_examples[shuffled].tolist()


def apportion(seats: int, weights: Sequence[float]) -> npt.NDArray[np.int64]:
    """Distribute a number of seats by weights that sum to 1 (method of Webster and Sainte-Laguë).

    Seat k (from 0) of a root of weight p has the rank (k + 1/2) / p, and the seats of lowest rank
    are assigned. With one seat more, therefore, one root gets one more and no root gets fewer.
    """
    shares = np.array(weights)
    # A rank below which there are at most ``seats`` seats; the few others are assigned one by one.
    rank = seats - len(shares) / 2 - 1
    counts = np.maximum(0, np.floor(rank * shares + 0.5)).astype(np.int64)
    for _ in range(seats - int(counts.sum())):
        counts[np.argmin((counts + 0.5) / shares)] += 1
    return counts
