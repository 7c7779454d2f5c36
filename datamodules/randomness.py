"""Counter-based random generators: a pure function of seed, purpose, epoch and index."""

from __future__ import annotations

import numpy as np

Position = tuple[int, int]
"""(epoch, index in the epoch) of an example."""

# One purpose, one independent stream; augmentation number n draws from AUGMENTATION + n.
TRACK_ORDER, CROP, ROOT_ORDER, AUGMENTATION = 0, 1, 2, 3

# Degradation n likewise, in training and where examples are fixed; rooms have numbers for seeds.
DEGRADATION, FIXED_DEGRADATION, ROOM = 2**32, 2**33, 2**34


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
