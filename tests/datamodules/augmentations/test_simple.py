"""Exact values of level, channel and time augmentations, and of remixing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datamodules.augmentations import (
    ChannelSwap,
    Gain,
    Mixup,
    Mono,
    Pan,
    Polarity,
    Remix,
    Silence,
    TimeShift,
)
from datamodules.randomness import generator

STEMS = torch.arange(16.0).reshape(2, 2, 2, 2) + 1  # (B, stems, C, T)


def test_gain_multiplies_each_stem() -> None:
    factors = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    result = Gain()(STEMS, factors)
    assert torch.equal(result[0, 1], STEMS[0, 1] * 2)
    assert torch.equal(result[1, 0], STEMS[1, 0] / 2)
    assert torch.equal(result[1, 1], torch.zeros(2, 2))


def test_gain_is_uniform_in_decibels() -> None:
    decibels = 20 * np.log10(Gain(-6.0, 2.0).draw(generator(0, 2, 0, 0), 10_000))
    assert decibels.min() >= -6.001
    assert decibels.max() <= 2.001
    assert abs(decibels.mean() + 2) < 0.1


def test_channel_swap_swaps_where_applied() -> None:
    result = ChannelSwap()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 0], STEMS[0, 0].flip(0))
    assert torch.equal(result[0, 1], STEMS[0, 1])
    assert torch.equal(result[1], STEMS[1])


def test_polarity_inverts_where_applied() -> None:
    result = Polarity()(STEMS, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 1], -STEMS[0, 1])
    assert torch.equal(result[0, 0], STEMS[0, 0])


def test_mono_averages_the_channels() -> None:
    result = Mono()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 0], torch.tensor([[2.0, 3.0], [2.0, 3.0]]))
    assert torch.equal(result[1], STEMS[1])


def test_silence_silences_where_applied() -> None:
    result = Silence()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert not result[0, 0].any()
    assert torch.equal(result[0, 1], STEMS[0, 1])


def test_pan_keeps_the_power() -> None:
    ones = torch.ones(1, 5, 2, 1)
    result = Pan()(ones, torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]]))[0, :, :, 0]
    root = math.sqrt(2)
    left = [root, root * math.cos(math.pi / 8), 1.0, root * math.sin(math.pi / 8), 0.0]
    assert torch.allclose(result[:, 0], torch.tensor(left), atol=1e-7)
    assert torch.allclose(result[:, 1], torch.tensor(left[::-1]), atol=1e-7)
    assert torch.allclose(result.square().sum(1), torch.tensor(2.0))
    positions = Pan(0.3).draw(generator(0, 2, 0, 0), 1000)
    assert -0.3 <= positions.min() < -0.29
    assert 0.29 < positions.max() <= 0.3


def test_pan_needs_stereo() -> None:
    with pytest.raises(ValueError, match=r"stereo.*1 channel: remove it"):
        Pan()(torch.ones(1, 1, 1, 4), torch.tensor([[0.5]]))


def test_time_shift_moves_by_seconds() -> None:
    shift = TimeShift()
    shift.sample_rate = 100
    ramp = torch.arange(1.0, 6.0).expand(1, 4, 2, 5)
    result = shift(ramp, torch.tensor([[0.02, -0.0149, 0.0, 3.0]]))[0, :, 1]
    assert result.tolist() == [
        [0, 0, 1, 2, 3],
        [2, 3, 4, 5, 0],
        [1, 2, 3, 4, 5],
        [0, 0, 0, 0, 0],
    ]


def test_remix_permutes_stems_by_the_order_of_their_keys() -> None:
    stems = torch.arange(12.0).reshape(4, 3, 1, 1)
    keys = torch.tensor([[0.9, 0.5, 0.0], [0.1, 0.0, 0.0], [0.5, 0.1, 0.7], [0.7, 0.9, 0.0]])
    result = Remix()(stems, keys)[:, :, 0, 0]
    # Smallest keys of the first stem: examples 1, 2, 3, 0. Example 1 keeps its second stem.
    assert result[:, 0].tolist() == [3, 6, 9, 0]
    assert result[:, 1].tolist() == [7, 4, 1, 10]
    assert result[:, 2].tolist() == [2, 5, 8, 11]


@pytest.mark.parametrize("examples", [1, 2, 5, 33])
@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_remix_keeps_all_stems_of_a_batch(examples: int, probability: float) -> None:
    stems = torch.arange(examples * 4.0).reshape(examples, 4, 1, 1)
    remix = Remix(probability)
    keys = [remix.draw(generator(3, 2, 0, index), 4) for index in range(examples)]
    result = remix(stems, torch.from_numpy(np.stack(keys)))
    assert torch.equal(result.sort(0).values, stems)


def test_mixup_adds_the_same_stem_of_another_example() -> None:
    stems = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])[..., None, None]
    gains = torch.tensor([[0.5, 0.0], [0.0, 2.0], [1.0, 1.0]])
    places = torch.tensor([[0.0, 0.9], [0.0, 0.4], [0.9999, 0.0]])
    result = Mixup()(stems, torch.stack([gains, places], -1))[..., 0, 0]
    # The next example, or from 0.5 on the one after it.
    assert result.tolist() == [[2.0, 10.0], [2.0, 100.0], [6.0, 50.0]]
    assert torch.equal(Mixup()(stems[:1], torch.ones(1, 2, 2)), stems[:1])
    drawn = Mixup(-6.0, 0.0, probability=1.0).draw(generator(0, 2, 0, 0), 1000)
    assert drawn[:, 0].min() > 0.5
    assert drawn[:, 0].max() <= 1.0


def test_mixup_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="swap them"):
        Mixup(3.0, 1.0)
