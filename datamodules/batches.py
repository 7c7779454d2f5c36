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

    @property
    def known(self) -> Tensor | None:
        """Whether each target is known, shape (B, S); None if all are."""
        return None

    def with_audio(self, mixture: Tensor, targets: Tensor) -> Batch:
        """The same batch with other waveforms."""
        return Batch(mixture, targets)


class PartialBatch(Batch):
    """A training batch in which some targets are unknown: they are silent, and left out of losses.

    Args:
        mixture: Waveform, shape (B, C, T); contains the unknown sources.
        targets: The model's sources, shape (B, S, C, T).
        known: Whether each target is known, shape (B, S).
    """

    _known: Tensor

    def __new__(cls, mixture: Tensor, targets: Tensor, known: Tensor) -> PartialBatch:
        """Create the pair of waveforms, and attach the mask."""
        batch = super().__new__(cls, mixture, targets)
        batch._known = known
        return batch

    @property
    def known(self) -> Tensor:
        """Whether each target is known, shape (B, S)."""
        return self._known

    def with_audio(self, mixture: Tensor, targets: Tensor) -> Batch:
        """The same batch with other waveforms."""
        return PartialBatch(mixture, targets, self._known)


class PartialCrops(NamedTuple):
    """Validation crops of which some targets are unknown, before they become a `PartialBatch`.

    Attributes:
        mixture: Waveform, shape (B, C, T).
        targets: The model's sources, shape (B, S, C, T).
        known: Whether each target is known, shape (B, S).
    """

    mixture: Tensor
    targets: Tensor
    known: Tensor


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
