"""Batches that the data modules give to the models."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A training batch.

    Attributes:
        mixture: Sum of all stems, shape (B, C, T).
        targets: The model's sources, shape (B, S, C, T).
    """

    mixture: Tensor
    targets: Tensor


class TrackBatch(NamedTuple):
    """A complete track.

    Attributes:
        name: Name of the track.
        mixture: Waveform, shape (C, T).
        targets: The model's sources, shape (S, C, T).
        sample_rate: Sample rate of the track, which may be another than the model's, Hz.
    """

    name: str
    mixture: Tensor
    targets: Tensor
    sample_rate: int


class StemBatch(NamedTuple):
    """Training examples before augmentation and mixing on the device.

    Attributes:
        stems: All stems of the data set, shape (B, stems, C, T).
        positions: Epoch and index of each example, shape (B, 2).
    """

    stems: Tensor
    positions: Tensor
