"""Which example is which: a pure function of (seed, epoch, index).

Nothing here has a state, so any number of ranks, workers or restarts sees the
same stream. The random numbers come from Philox (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), whose output is a function of a key and a
counter: the seed is the key; purpose, epoch and index are the counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Position = tuple[int, int]
"""(epoch, index in the epoch) of an example."""

# One purpose, one independent stream; augmentation number n draws from AUGMENTATION + n.
TRACK_ORDER, CROP, AUGMENTATION = 0, 1, 2


class Crop(NamedTuple):
    """Where an example's stems come from.

    Attributes:
        tracks: Number of the track of each stem, shape (stems,).
        starts: First sample of the crop of each stem, shape (stems,).
    """

    tracks: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


def generator(seed: int, purpose: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator that belongs to one purpose of one example.

    Args:
        seed: Seed of the run.
        purpose: What is drawn; streams of unlike purposes are independent.
        epoch: Number of the epoch.
        index: Number of the example in its epoch.

    Returns:
        A generator whose numbers depend on nothing but the arguments.
    """
    # The lowest word of the counter is the one that advances with each draw, so it starts at 0.
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, index, epoch, purpose]))


def draw_crop(
    seed: int,
    position: Position,
    lengths: npt.NDArray[np.int64],
    segment_samples: int,
    stems: int,
    mix_probability: float,
) -> Crop:
    """Draw the tracks and the starts of one example.

    Tracks come in a random order without replacement: each pass of
    ``len(lengths)`` examples holds every track once. When an example is mixed,
    each of its stems follows an order of its own.

    Args:
        seed: Seed of the run.
        position: Epoch of the example and its index there.
        lengths: Length of each track in samples, shape (tracks,).
        segment_samples: Length of the crop; a shorter track starts at 0.
        stems: Number of stems.
        mix_probability: Probability that the stems come from different tracks.

    Returns:
        Tracks and starts of the stems.
    """
    epoch, index = position
    turn, place = divmod(index, len(lengths))
    random = generator(seed, CROP, epoch, index)
    mixed = random.random() < mix_probability
    uniform = random.random(stems)
    # An example from one track follows the first stem's order for all of its stems.
    tracks = np.array(
        [
            generator(seed, TRACK_ORDER, epoch, turn * stems + (stem if mixed else 0)).permutation(
                len(lengths)
            )[place]
            for stem in range(stems)
        ]
    )
    choices = np.maximum(lengths[tracks] - segment_samples, 0) + 1
    starts = ((uniform if mixed else uniform[0]) * choices).astype(np.int64)
    return Crop(tracks, starts)


class ExampleSampler(Sampler[Position]):
    """The positions that one rank works through, batch after batch.

    Step k of the run holds examples k B to (k + 1) B of the epoch, B being the
    global batch size; each rank takes its own consecutive share of them. An
    incomplete last batch is left out, so that all ranks take as many steps.

    Args:
        examples: Number of examples in an epoch.
        batch_size: Global batch size, divisible by the number of ranks.
        rank: Number of this process.
        ranks: Number of processes.
        epoch: Epoch to begin with.
        batch: Batch of that epoch to begin with; later epochs begin at 0.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        epoch: int = 0,
        batch: int = 0,
    ) -> None:
        self.batches = examples // batch_size
        self.batch_size = batch_size
        self.share = batch_size // ranks
        self.rank = rank
        self.epoch, self.first_batch = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Move to another epoch; Lightning calls it before each."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[Position]:
        for batch in range(self.first_batch, self.batches):
            start = batch * self.batch_size + self.rank * self.share
            for index in range(start, start + self.share):
                yield self.epoch, index

    def __len__(self) -> int:
        # The whole epoch even when it begins in the middle: Lightning counts on from there.
        return self.batches * self.share
