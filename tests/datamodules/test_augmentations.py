"""Augmentations: exact values, and never from one stem into another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.augmentations import Augmentation, ChannelSwap, Gain, Polarity
from datamodules.sampling import generator

STEMS = torch.arange(16.0).reshape(2, 2, 2, 2) + 1  # (B, stems, C, T)
ALL = [Gain(), ChannelSwap(), Polarity()]


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


def test_channel_swap_swaps_where_asked() -> None:
    result = ChannelSwap()(STEMS, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 0], STEMS[0, 0].flip(0))
    assert torch.equal(result[0, 1], STEMS[0, 1])
    assert torch.equal(result[1], STEMS[1])


def test_polarity_inverts_where_asked() -> None:
    result = Polarity()(STEMS, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(result[0, 1], -STEMS[0, 1])
    assert torch.equal(result[0, 0], STEMS[0, 0])


@pytest.mark.parametrize("augmentation", [ChannelSwap, Polarity])
def test_switch_happens_as_often_as_told(augmentation: type[ChannelSwap]) -> None:
    assert abs(augmentation(0.3).draw(generator(0, 2, 0, 0), 10_000).mean() - 0.3) < 0.02
    assert augmentation(0.0).draw(generator(0, 2, 0, 0), 100).sum() == 0
    assert augmentation(1.0).draw(generator(0, 2, 0, 0), 100).sum() == 100


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_input_is_left_alone_and_stems_do_not_mix(augmentation: Augmentation) -> None:
    stems = torch.zeros(1, 4, 2, 8)
    stems[0, 2] = torch.randn(2, 8)
    before = stems.clone()
    parameters = torch.from_numpy(augmentation.draw(generator(0, 2, 0, 0), 4))[None]
    result = augmentation(stems, parameters)
    assert torch.equal(stems, before)
    assert result[0, [0, 1, 3]].abs().sum() == 0


def test_faulty_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5.*0 to 1"):
        Polarity(1.5)
    with pytest.raises(ValueError, match=r"3.*above.*2"):
        Gain(3.0, 2.0)
