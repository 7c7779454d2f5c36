"""Degraded music: the input is noisy and reverberant, the targets stay clean.

Li, "Deep denoising autoencoder for music source separation", section 3.2: music is convolved with
an impulse response, noise is added, and all is lowered so that nothing clips. Departs from the
paper, which has one response, one noise and one excerpt of each track, divides by ten, and names
all of that as its limits: rooms, noises and places are drawn anew for each example, and an example
is lowered only as far as its peak asks for, its targets with it, so that no model has to guess
by how much.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentations.base import Augmentation
from datamodules.augmentations.noise import ColouredNoise, RecordedNoise
from datamodules.augmentations.rooms import RecordedRoom, ShoeboxRoom
from datamodules.batches import Batch, StemBatch, TrackBatch
from datamodules.musdb import MUSDBDataModule
from datamodules.randomness import DEGRADATION, FIXED_DEGRADATION, Position, generator
from datamodules.stream.datasets import ValidationCrops, WholeTracks

# The largest sample that 16 bits hold.
_FULL_SCALE = 1 - 2**-15


class Degrader:
    """Degrades mixtures, each by numbers of its own.

    Args:
        degradations: What is done to a mixture, in order.
        seed: Seed of the stream.
    """

    def __init__(self, degradations: Sequence[Augmentation], seed: int) -> None:
        self.degradations, self.seed = degradations, seed
        # Rooms that training has not heard.
        self._fixed = [copy.deepcopy(degradation).eval() for degradation in degradations]

    def training(self, batch: Batch, positions: Sequence[Position]) -> Batch:
        """Degrade training examples, as their place in the stream tells.

        Args:
            batch: Mixture (B, C, T) and targets (B, S, C, T).
            positions: Epoch and index of each example, B of them.

        Returns:
            The degraded mixture, and the targets, lowered with it where it would clip.
        """
        return self._degrade(self.degradations, DEGRADATION, batch, positions)

    def fixed(self, batch: Batch, name: str, start: int = 0) -> Batch:
        """Degrade a track, or a part of one, always in the same way.

        Args:
            batch: Mixture (C, T) and targets (S, C, T).
            name: Name of the track.
            start: First sample of the part.

        Returns:
            The degraded mixture, and the targets, lowered with it where it would clip.
        """
        # By name, so that it does not matter which other tracks there are.
        place = (start, zlib.crc32(name.encode()))
        batched = Batch(batch.mixture[None], batch.targets[None])
        mixture, targets = self._degrade(self._fixed, FIXED_DEGRADATION, batched, [place])
        return Batch(mixture[0], targets[0])

    def _degrade(
        self,
        degradations: Sequence[Augmentation],
        purpose: int,
        batch: Batch,
        positions: Sequence[Position],
    ) -> Batch:
        mixture = batch.mixture[:, None]  # (B, C, T) -> (B, 1, C, T): the only stem
        for number, degradation in enumerate(degradations):
            drawn = [
                degradation.draw(generator(self.seed, purpose + number, *position), 1)
                for position in positions
            ]
            mixture = degradation(mixture, torch.from_numpy(np.stack(drawn)))
        factors = _FULL_SCALE / mixture.abs().amax((1, 2, 3)).clamp_min(_FULL_SCALE)
        return Batch(
            mixture[:, 0] * factors[:, None, None],
            batch.targets * factors[:, None, None, None],
        )


class DegradedItems(Dataset[Batch | TrackBatch]):
    """What a data set hands out, its mixtures degraded, always in the same way.

    Args:
        clean: The data set.
        degrader: Degrades.
    """

    def __init__(self, clean: ValidationCrops | WholeTracks, degrader: Degrader) -> None:
        self.clean, self.degrader = clean, degrader

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, number: int) -> Batch | TrackBatch:
        item = self.clean[number]
        track, start = self.clean.place(number)
        degraded = self.degrader.fixed(Batch(item.mixture, item.targets), track.name, start)
        return item._replace(mixture=degraded.mixture, targets=degraded.targets)


class DegradedMUSDBDataModule(MUSDBDataModule):
    """MUSDB18 whose mixtures are degraded, while the targets stay clean.

    A denoiser has one source that holds all stems, ``{music: [vocals, drums, bass, other]}``; any
    other sources are those of degraded mixtures that are to be separated. Training examples are
    degraded on their device, as the place in the stream tells, after augmentation and mixing;
    validation and test tracks are degraded always in the same way, which the seed and the
    track's name tell. Files that ``predict`` is given are taken as they are.

    Args:
        degradations: What is done to a mixture, in order: augmentations, which take it for
            their only stem. By default computed rooms, then coloured noise.
        **kwargs: Arguments of ``MUSDBDataModule``.

    Raises:
        ValueError: A degradation wants stems.
        DataError: A recording has a sample rate that cannot be brought to that of the music.
    """

    def __init__(self, degradations: list[Augmentation] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if degradations is None:
            degradations = [ShoeboxRoom(), ColouredNoise()]
        for degradation in degradations:
            degradation.sample_rate = self.sample_rate
            degradation.draw(generator(0, 0, 0, 0), 1)  # complains if it wants all four stems
            if isinstance(degradation, RecordedRoom | RecordedNoise):
                degradation.recordings.check_rates(self.sample_rate)
        self.degrader = Degrader(degradations, self.seed)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment, mix and group, then degrade the mixture: training examples only."""
        mixed = super().on_after_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, StemBatch):
            return mixed
        return self.degrader.training(mixed, self.positions)

    def _loader(self, dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
        clean = cast(ValidationCrops | WholeTracks, dataset)
        return super()._loader(DegradedItems(clean, self.degrader), **arguments)
