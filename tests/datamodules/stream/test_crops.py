"""The training stream: a pure function of seed, epoch and index."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.stream import crops
from datamodules.stream.crops import Crop, CropSampler, SamplingConfig, apportion
from datamodules.stream.sampler import ExampleSampler

LENGTHS = np.array([1000, 2000, 500, 4000, 100])


def crop_sampler(seed: int = 0, mix_probability: float = 0.5, **arguments: Any) -> CropSampler:
    return CropSampler(seed, SamplingConfig(mix_probability), 4, [LENGTHS], **arguments)


def multi_root_sampler(
    weights: list[float], sizes: list[int], mix_probability: float = 0.0
) -> CropSampler:
    lengths = [np.full(size, 1000) for size in sizes]
    return CropSampler(3, SamplingConfig(mix_probability), 2, lengths, weights)


def equal(one: Crop, other: Crop) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_crop_does_not_depend_on_earlier_draws() -> None:
    forward = [crop_sampler(7).crop((3, i), 200) for i in range(20)]
    for cached in (crops._track_order, crops._block_roots):
        cached.cache_clear()
    backward = [crop_sampler(7).crop((3, i), 200) for i in reversed(range(20))]
    assert all(equal(*pair) for pair in zip(forward, reversed(backward), strict=True))
    assert not equal(crop_sampler(8).crop((3, 0), 200), forward[0])


@pytest.mark.parametrize("mix_probability", [0.0, 1.0])
def test_each_pass_holds_every_track_once(mix_probability: float) -> None:
    draw = crop_sampler(0, mix_probability)
    for turn in range(8):
        crops = [draw.crop((0, turn * 5 + i), 200) for i in range(5)]
        for stem in range(4):
            assert sorted(int(crop.tracks[stem]) for crop in crops) == [0, 1, 2, 3, 4]


def test_orders_differ_between_epochs_passes_and_stems() -> None:
    draw = crop_sampler(0, 1.0)
    orders = {
        tuple(int(draw.crop((epoch, turn * 5 + i), 200).tracks[stem]) for i in range(5))
        for epoch in range(4)
        for turn in range(4)
        for stem in range(4)
    }
    assert len(orders) > 40


def test_unmixed_example_has_one_track_and_one_start() -> None:
    for index in range(100):
        tracks, starts = crop_sampler(0, 0.0).crop((0, index), 90)
        assert len(set(tracks.tolist())) == len(set(starts.tolist())) == 1


@pytest.mark.parametrize("mix_probability", [0.3, 1.0])
def test_examples_are_mixed_with_the_given_probability(mix_probability: float) -> None:
    crops = [crop_sampler(0, mix_probability).crop((0, index), 90) for index in range(2000)]
    mixed = np.mean([len(set(crop.tracks.tolist())) > 1 for crop in crops])
    # A mixed example has the same track in all four stems in one of 125 cases.
    assert mixed == pytest.approx(mix_probability * (1 - 5**-3), abs=0.03)


def test_starts_cover_the_track_to_both_ends() -> None:
    starts: dict[int, list[int]] = {track: [] for track in range(5)}
    draw = crop_sampler(0, 1.0)
    for index in range(4000):
        for track, start in zip(*draw.crop((0, index), 490), strict=True):
            starts[int(track)].append(int(start))
    # Track 2 has eleven possible starts, and all of them occur.
    assert set(starts[2]) == set(range(11))
    assert set(starts[4]) == {0}, "a track shorter than the crop starts at 0"
    for track, found in starts.items():
        assert min(found) >= 0
        assert max(found) <= max(0, LENGTHS[track] - 490)


def test_tracks_of_the_crop_length_and_one_sample_longer() -> None:
    draw = CropSampler(0, SamplingConfig(0.0), 1, [np.array([490, 491])])
    found = {tuple(np.ravel(draw.crop((0, index), 490)).tolist()) for index in range(100)}
    assert found == {(0, 0), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mix_probability": 1.5}, "mix_probability is 1.5"),
        ({"avoid_silence_db": 3.0}, "avoid_silence_db is 3.0.*-60"),
        ({"avoid_silence_db": float("nan")}, "avoid_silence_db is nan"),
        ({"silence_tries": 0}, "silence_tries is 0"),
        ({"loudness_classes": 0}, "loudness_classes is 0"),
    ],
)
def test_invalid_sampling_configs_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        SamplingConfig(**arguments)


# ---------------------------------------------------------- several roots


@pytest.mark.parametrize(
    ("weights", "shares"),
    [([1, 1], [0.5, 0.5]), ([3, 1, 1], [0.6, 0.2, 0.2]), ([2.0, 0.5], [0.8, 0.2])],
)
def test_seats_are_apportioned_exactly(weights: list[float], shares: list[float]) -> None:
    before = np.zeros(len(shares), int)
    for seats in range(1, 400):
        counts = apportion(seats, shares)
        assert counts.sum() == seats
        added = counts - before
        assert added.min() == 0
        assert added.sum() == 1
        assert np.abs(counts - seats * np.array(shares)).max() < 1
        if seats % 10 == 0:
            assert np.allclose(counts, seats * np.array(shares))
        before = counts


def test_apportionment_equals_the_method_of_webster() -> None:
    """Reference: each seat goes to the largest quotient weight / (seats + 1/2)."""
    weights = np.random.default_rng(0).dirichlet(np.ones(7) / 2)
    counts = np.zeros(7, int)
    for seats in range(1, 2000):
        counts[np.argmax(weights / (counts + 0.5))] += 1
        assert np.array_equal(apportion(seats, weights.tolist()), counts)


@pytest.mark.parametrize("mix_probability", [0.0, 1.0])
def test_roots_are_drawn_by_weight(mix_probability: float) -> None:
    draw = multi_root_sampler([3, 1, 1], [7, 2, 5], mix_probability)
    for epoch in range(3):
        tracks = np.array([draw.crop((epoch, index), 100).tracks for index in range(800)])
        for stem in range(2):
            roots = np.digitize(tracks[:, stem], [7, 9])
            assert np.bincount(roots).tolist() == [480, 160, 160]
            # Any part of the stream holds about as many, without a period.
            stretches = roots.reshape(-1, 16)
            assert set((stretches == 0).sum(1).tolist()) <= {9, 10}
            assert len({tuple(stretch) for stretch in stretches.tolist()}) > 40


def test_each_root_is_drawn_without_replacement() -> None:
    draw = multi_root_sampler([3, 1], [7, 4], 1.0)
    tracks = np.array([draw.crop((1, index), 100).tracks for index in range(640)])
    for stem in range(2):
        for first, size in ((0, 7), (7, 4)):
            # Blocks are shuffled, so passes may overlap by a few examples.
            counts = Counter(t for t in tracks[:, stem].tolist() if first <= t < first + size)
            assert set(counts) == set(range(first, first + size))
            assert max(counts.values()) - min(counts.values()) <= 1


def test_root_with_a_small_weight_is_drawn_in_some_epochs() -> None:
    draw = multi_root_sampler([1.0, 0.002], [5, 5])
    met = [
        any(draw.crop((epoch, i), 100).tracks[0] >= 5 for i in range(50)) for epoch in range(100)
    ]
    assert 2 <= sum(met) <= 25, "about one epoch in ten"


def test_single_root_gives_the_same_stream_for_any_weight() -> None:
    one, other = crop_sampler(0, 0.5), crop_sampler(0, 0.5, weights=[0.3])
    assert all(equal(one.crop((0, i), 200), other.crop((0, i), 200)) for i in range(40))


@pytest.mark.slow
def test_sampling_an_epoch_of_ten_million_examples_takes_no_memory() -> None:
    """At any position in it, and after any number of epochs."""
    sampler, draw = ExampleSampler(10_000_000, 16), multi_root_sampler([1.0, 0.5], [86, 20], 0.5)
    for cached in (crops._track_order, crops._block_roots):
        cached.cache_clear()
    tracemalloc.start()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        assert next(iter(sampler)) == (epoch, 0)
        for index in (0, 5_000_000, 9_999_999):
            draw.crop((epoch, index), 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    for cached in (crops._track_order, crops._block_roots):
        assert cached.cache_info().currsize <= 64
