"""Counter-based random generators."""

from __future__ import annotations

import numpy as np

from datamodules.randomness import CROP, generator


def test_generator_depends_on_each_of_its_arguments() -> None:
    base = generator(1, CROP, 2, 3).random(4)
    assert np.array_equal(base, generator(1, CROP, 2, 3).random(4))
    for other in ((2, CROP, 2, 3), (1, CROP + 1, 2, 3), (1, CROP, 3, 3), (1, CROP, 2, 4)):
        assert not np.array_equal(base, generator(*other).random(4))


def test_streams_of_neighbouring_positions_do_not_overlap() -> None:
    """A long draw at one position does not reach the numbers of the next position."""
    first, second = generator(0, CROP, 0, 0).random(64), generator(0, CROP, 0, 1).random(64)
    assert not set(first) & set(second)
