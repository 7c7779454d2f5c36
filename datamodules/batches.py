"""What the data modules hand to the models."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What a model is trained on.

    Attributes:
        mixture: Sum of all stems, shape (B, C, T).
        targets: The model's sources, shape (B, S, C, T).
    """

    mixture: Tensor
    targets: Tensor


class TrackBatch(NamedTuple):
    """A whole track.

    Attributes:
        name: Name of the track.
        mixture: Waveform, shape (C, T).
        targets: The model's sources, shape (S, C, T).
    """

    name: str
    mixture: Tensor
    targets: Tensor


class StemBatch(NamedTuple):
    """Training examples on their way to the device, not yet augmented nor mixed.

    Attributes:
        stems: All stems of the data set, shape (B, stems, C, T).
        positions: Epoch and index of each example, shape (B, 2).
    """

    stems: Tensor
    positions: Tensor
