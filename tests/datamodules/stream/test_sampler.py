"""Distribution of examples and tracks over ranks."""

from __future__ import annotations

from itertools import chain, pairwise, product

import numpy as np
import pytest

from datamodules.stream.sampler import ExampleSampler, share_by_length


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_divide_each_global_batch(ranks: int) -> None:
    samplers = [ExampleSampler(70, 8, rank, ranks, epoch=5) for rank in range(ranks)]
    shares = [list(sampler) for sampler in samplers]
    for step in range(8):
        size = 8 // ranks
        together = [p for share in shares for p in share[step * size : (step + 1) * size]]
        assert together == [(5, step * 8 + i) for i in range(8)]
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, samplers, strict=True))


def test_resumed_sampler_starts_within_an_epoch_and_later_ones_at_0() -> None:
    sampler = ExampleSampler(32, 8, epoch=2, batch=3)
    assert list(sampler) == [(2, i) for i in range(24, 32)]
    sampler.set_epoch(2)  # as Lightning does before the resumed epoch
    assert next(iter(sampler)) == (2, 24)
    sampler.set_epoch(3)
    assert next(iter(sampler)) == (3, 0)
    assert len(list(sampler)) == 32
    assert all(a < b for a, b in pairwise(sampler))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_take_the_same_number_of_steps(ranks: int) -> None:
    """Also where the examples do not divide by the batch size; the length is known beforehand."""
    for examples in (64, 65, 71):
        for rank in range(ranks):
            sampler = ExampleSampler(examples, 8, rank, ranks)
            for epoch in range(3):
                sampler.set_epoch(epoch)
                assert len(list(sampler)) == len(sampler) == 8 * 8 // ranks


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_tracks_are_distributed_by_length(ranks: int) -> None:
    """Each track once; no rank has more than 4/3 of the best possible maximum."""
    random = np.random.default_rng(0)
    for _ in range(20):
        lengths = random.integers(1, 20, 6).tolist()
        shares = share_by_length(lengths, ranks)
        assert sorted(chain.from_iterable(shares)) == list(range(6))
        assert all(share == sorted(share) for share in shares)
        best = min(
            max(np.bincount(owners, lengths, ranks)) for owners in product(range(ranks), repeat=6)
        )
        assert max(sum(lengths[number] for number in share) for share in shares) <= 4 / 3 * best


def test_longest_tracks_go_to_the_shortest_share_first() -> None:
    assert share_by_length([5, 5, 4, 4, 3, 3, 3], 3) == [[0, 4, 6], [1, 5], [2, 3]]
    assert share_by_length([2, 1], 4) == [[0], [1], [1], [1]], "every rank has one"
