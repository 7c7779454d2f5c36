"""Crop lengths by epoch."""

from __future__ import annotations

import pytest

from datamodules.errors import DataError
from datamodules.stream.curriculum import crop_lengths, samples_at


def test_crop_lengths_by_epoch() -> None:
    lengths = crop_lengths({10: 3.0, 0: 1.0, 12: 2.0}, 3.0, 100)
    assert [samples_at(epoch, lengths) for epoch in (0, 9, 10, 11, 12, 99)] == [
        100,
        100,
        300,
        300,
        200,
        200,
    ]
    assert crop_lengths(None, 3.0, 100) == {0: 300}


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        ({5: 1.0}, "begins at epoch 5.*must be 0"),
        ({-1: 1.0, 0: 1.0}, "begins at epoch -1"),
        ({}, "must be 0"),
        ({0: 1.0, 3: 4.0}, "4 s from epoch 3.*at most segment_seconds, which is 3"),
        ({0: 0.0}, "0 s from epoch 0.*above 0"),
    ],
)
def test_invalid_curricula_are_refused(curriculum: dict[int, float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        crop_lengths(curriculum, 3.0, 100)
