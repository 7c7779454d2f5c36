"""The stream of examples: a function of its position, whoever asks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from datamodules.sampling import CROP, ExampleSampler, draw_crop, generator

LENGTHS = np.array([1000, 2000, 500, 4000, 100])


def test_generator_depends_on_each_of_its_arguments() -> None:
    base = generator(1, CROP, 2, 3).random(4)
    assert np.array_equal(base, generator(1, CROP, 2, 3).random(4))
    for other in ((2, CROP, 2, 3), (1, CROP + 1, 2, 3), (1, CROP, 3, 3), (1, CROP, 2, 4)):
        assert not np.array_equal(base, generator(*other).random(4))


def test_draws_of_neighbours_do_not_overlap() -> None:
    """A long draw at one position never runs into the next position's numbers."""
    first, second = generator(0, CROP, 0, 0).random(64), generator(0, CROP, 0, 1).random(64)
    assert not set(first) & set(second)


def test_crop_is_the_same_in_any_order() -> None:
    forward = [draw_crop(7, (3, i), LENGTHS, 200, 4, 0.5) for i in range(20)]
    backward = [draw_crop(7, (3, i), LENGTHS, 200, 4, 0.5) for i in reversed(range(20))]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert np.array_equal(one.tracks, other.tracks)
        assert np.array_equal(one.starts, other.starts)


@pytest.mark.parametrize("mix_probability", [0.0, 1.0])
def test_every_pass_holds_every_track_once(mix_probability: float) -> None:
    for turn in range(3):
        crops = [
            draw_crop(0, (0, turn * 5 + i), LENGTHS, 200, 4, mix_probability) for i in range(5)
        ]
        for stem in range(4):
            assert sorted(int(crop.tracks[stem]) for crop in crops) == [0, 1, 2, 3, 4]


def test_orders_differ_between_epochs_and_passes() -> None:
    def order(epoch: int, turn: int) -> tuple[int, ...]:
        return tuple(
            int(draw_crop(0, (epoch, turn * 5 + i), LENGTHS, 200, 4, 0.0).tracks[0])
            for i in range(5)
        )

    orders = {order(epoch, turn) for epoch in range(4) for turn in range(4)}
    assert len(orders) > 10


def test_unmixed_example_is_one_place_of_one_track() -> None:
    crop = draw_crop(0, (0, 0), LENGTHS, 200, 4, 0.0)
    assert len(set(crop.tracks.tolist())) == 1
    assert len(set(np.broadcast_to(crop.starts, 4).tolist())) == 1


def test_starts_stay_inside_and_reach_both_ends() -> None:
    starts: dict[int, list[int]] = {track: [] for track in range(5)}
    for index in range(4000):
        crop = draw_crop(0, (0, index), LENGTHS, 490, 4, 1.0)
        for track, start in zip(crop.tracks, crop.starts, strict=True):
            starts[int(track)].append(int(start))
    # Track 2 has eleven possible places, and all of them occur, the last one too.
    assert set(starts[2]) == set(range(11))
    assert set(starts[4]) == {0}, "a track shorter than the segment starts at 0"
    for track, found in starts.items():
        assert min(found) >= 0
        assert max(found) <= max(0, LENGTHS[track] - 490)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_each_global_batch(ranks: int) -> None:
    samplers = [ExampleSampler(70, 8, rank, ranks, epoch=5) for rank in range(ranks)]
    shares = [list(sampler) for sampler in samplers]
    for step in range(8):
        size = 8 // ranks
        together = [p for share in shares for p in share[step * size : (step + 1) * size]]
        assert together == [(5, step * 8 + i) for i in range(8)]
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, samplers, strict=True))


def test_sampler_goes_on_in_the_middle_and_then_from_the_start() -> None:
    sampler = ExampleSampler(32, 8, epoch=2, batch=3)
    assert list(sampler) == [(2, i) for i in range(24, 32)]
    sampler.set_epoch(2)  # as Lightning does before the resumed epoch
    assert next(iter(sampler)) == (2, 24)
    sampler.set_epoch(3)
    assert next(iter(sampler)) == (3, 0)
    assert len(list(sampler)) == 32
    assert all(a < b for a, b in pairwise(sampler))
