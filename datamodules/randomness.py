"""Counter-based random generators: a pure function of seed, purpose, epoch and index."""

from __future__ import annotations

import numpy as np

Position = tuple[int, int]
"""(epoch, index in the epoch) of an example."""

# Each purpose has an independent stream; augmentation n uses AUGMENTATION + n.
TRACK_ORDER, CROP, ROOT_ORDER, AUGMENTATION = 0, 1, 2, 3

# Degradation n likewise, in training and in fixed examples; room n uses ROOM + n.
DEGRADATION, FIXED_DEGRADATION, ROOM = 2**32, 2**33, 2**34


def generator(seed: int, purpose: int, epoch: int, index: int) -> np.random.Generator:
    """Random generator for one purpose of one example; it depends on the arguments only."""
    # Each draw increments the lowest word of the counter, so it starts at 0.
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, index, epoch, purpose]))
