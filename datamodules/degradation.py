"""Degraded music: noisy and reverberant inputs, clean targets.

Li, "Deep denoising autoencoder for music source separation", section 3.2: music is convolved with
an impulse response, noise is added, and the result is attenuated to avoid clipping. The paper uses
one response, one noise and one excerpt per track, divides by ten, and names these as limitations.
Here, room, noise and excerpt are drawn for each example, and an example is attenuated, together
with its targets, only as far as its peak requires.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset

from datamodules.augmentations.base import Augmentation
from datamodules.augmentations.noise import ColouredNoise
from datamodules.augmentations.rooms import ShoeboxRoom
from datamodules.batches import Batch, PartialCrops, StemBatch, TrackBatch
from datamodules.musdb import MUSDBDataModule
from datamodules.randomness import DEGRADATION, FIXED_DEGRADATION, Position, generator
from datamodules.stream.datasets import ValidationCrops, WholeTracks

# Largest 16-bit sample.
_FULL_SCALE = 1 - 2**-15


class Degrader:
    """Degrades mixtures reproducibly.

    Args:
        degradations: Augmentations of the mixture, in order.
        seed: Seed of the stream.
    """

    def __init__(self, degradations: Sequence[Augmentation], seed: int) -> None:
        self.degradations, self.seed = degradations, seed
        # In evaluation mode, ``ShoeboxRoom`` draws from other rooms than in training.
        self._fixed = [copy.deepcopy(degradation).eval() for degradation in degradations]

    def training(self, batch: Batch, positions: Sequence[Position]) -> Batch:
        """Degrade training examples as a function of their positions.

        Mixtures (B, C, T) and targets (B, S, C, T) are attenuated where the mixture would clip.
        """
        return self._degrade(self.degradations, DEGRADATION, batch, positions)

    def fixed(self, batch: Batch, name: str, start: int, sample_rate: int) -> Batch:
        """Degrade a track, or a crop of one, as a function of its name, first sample and rate (Hz).

        Mixture (C, T) and targets (S, C, T) are attenuated where the mixture would clip.
        """
        for degradation in self._fixed:
            degradation.sample_rate = sample_rate
        # The name, unlike an index, does not depend on the other tracks.
        position = (start, zlib.crc32(name.encode()))
        batched = Batch(batch.mixture[None], batch.targets[None])
        mixture, targets = self._degrade(self._fixed, FIXED_DEGRADATION, batched, [position])
        return Batch(mixture[0], targets[0])

    def _degrade(
        self,
        degradations: Sequence[Augmentation],
        purpose: int,
        batch: Batch,
        positions: Sequence[Position],
    ) -> Batch:
        mixture = batch.mixture[:, None]  # (B, C, T) -> (B, 1, C, T): the only stem
        for number, degradation in enumerate(degradations, purpose):
            mixture = degradation.augment(mixture, self.seed, number, positions)
        factors = _FULL_SCALE / mixture.abs().amax((1, 2, 3)).clamp_min(_FULL_SCALE)
        return batch.with_audio(
            mixture[:, 0] * factors[:, None, None], batch.targets * factors[:, None, None, None]
        )


class DegradedItems(Dataset[Batch | PartialCrops | TrackBatch]):
    """A data set with degraded mixtures, the same in every epoch."""

    def __init__(self, clean: ValidationCrops | WholeTracks, degrader: Degrader) -> None:
        self.clean, self.degrader = clean, degrader

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, number: int) -> Batch | PartialCrops | TrackBatch:
        item = self.clean[number]
        track, start = self.clean.origin(number)
        degraded = self.degrader.fixed(
            Batch(item.mixture, item.targets), track.name, start, track.sample_rate
        )
        return item._replace(mixture=degraded.mixture, targets=degraded.targets)


class DegradedMUSDBDataModule(MUSDBDataModule):
    """MUSDB18 with degraded mixtures and clean targets.

    For denoising use a single source, ``{music: [vocals, drums, bass, other]}``; several sources
    train the separation of degraded mixtures. Training examples are degraded on their device after
    augmentation and mixing, as a function of seed and position; validation and test tracks as a
    function of seed and track name. Files in ``predict_paths`` are not degraded.

    Args:
        degradations: Augmentations of the mixture, in order; the mixture is their only stem. By
            default simulated rooms, then coloured noise.
        **kwargs: Arguments of ``MUSDBDataModule``.

    Raises:
        ValueError: A degradation has probabilities per stem.
    """

    def __init__(self, degradations: list[Augmentation] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if degradations is None:
            degradations = [ShoeboxRoom(), ColouredNoise()]
        for degradation in degradations:
            degradation.sample_rate = self.sample_rate
            degradation.draw(generator(0, 0, 0, 0), 1)  # raises if it needs all four stems
        self.degrader = Degrader(degradations, self.seed)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment, mix and group, then degrade the mixture; training examples only."""
        mixed = super().on_after_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, StemBatch):
            return mixed
        return self.degrader.training(mixed, self.positions)

    def _loader(self, dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
        clean = cast(ValidationCrops | WholeTracks, dataset)
        return super()._loader(DegradedItems(clean, self.degrader), **arguments)
