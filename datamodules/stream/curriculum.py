"""Crop lengths that change over the epochs."""

from __future__ import annotations

from collections.abc import Mapping

from datamodules.errors import DataError


def crop_lengths(
    curriculum: Mapping[int, float] | None, segment_seconds: float, sample_rate: int
) -> dict[int, int]:
    """Check a curriculum of crop lengths and convert it to samples.

    Args:
        curriculum: First epoch -> crop length from that epoch on, seconds; by default
            ``segment_seconds`` in all epochs.
        segment_seconds: Largest crop length.
        sample_rate: Sample rate, Hz.

    Returns:
        First epoch -> crop length from that epoch on, samples.

    Raises:
        DataError: A length is out of range, or there is none for epoch 0.
    """
    if round(segment_seconds * sample_rate) < 1:
        raise DataError(f"segment_seconds is {segment_seconds}: must be above 0")
    curriculum = {0: segment_seconds} if curriculum is None else curriculum
    if min(curriculum, default=1) != 0:
        raise DataError(
            f"segment_curriculum begins at epoch {min(curriculum, default='(none)')}: its first "
            f"epoch must be 0, as in {{0: {segment_seconds / 2:g}, 10: {segment_seconds:g}}}"
        )
    for epoch, seconds in curriculum.items():
        if not 1 <= round(seconds * sample_rate) <= round(segment_seconds * sample_rate):
            raise DataError(
                f"segment_curriculum has crops of {seconds:g} s from epoch {epoch} on: must be "
                f"above 0 and at most segment_seconds, which is {segment_seconds:g}"
            )
    return {epoch: round(curriculum[epoch] * sample_rate) for epoch in sorted(curriculum)}


def samples_at(epoch: int, curriculum: Mapping[int, int]) -> int:
    """Crop length in an epoch, samples; ``curriculum`` is the result of ``crop_lengths``."""
    return curriculum[max(first for first in curriculum if first <= epoch)]
