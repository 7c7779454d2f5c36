"""Data sets: random crops for training, crops at fixed starts for validation, and whole tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.augmentations.base import FusedAugmentation, Parameters
from datamodules.batches import Batch, PartialCrops, TrackBatch
from datamodules.errors import DataError, counted
from datamodules.files.mapped_wav import MappedFiles
from datamodules.files.write_crop import write_crop
from datamodules.randomness import AUGMENTATION, Position, generator
from datamodules.stream.crops import CropSampler
from datamodules.stream.curriculum import samples_at
from datamodules.tracks.index import Track
from datamodules.tracks.sources import SourceGrouping


class TrainingCrops:
    """Writes the training example at a position, a crop of all stems, into given memory.

    Args:
        tracks: Tracks to draw from, in the order in which ``sampler`` numbers them.
        grouping: Stems, sources and channels.
        sampler: Draws tracks and starts.
        lengths: First epoch -> crop length from that epoch on, samples.
        augmentations: The first augmentations, fused into the conversion of samples.
        int16: Return the files' 16-bit samples instead of floats.
        plain: Number of stems, the last ones, that are not augmented.

    Attributes:
        shape: Shape of the longest example: (stems, C, T), or (stems, T, C) for int16.
        dtype: Type of its values.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        grouping: SourceGrouping,
        sampler: CropSampler,
        lengths: Mapping[int, int],
        augmentations: Sequence[FusedAugmentation] = (),
        int16: bool = False,
        plain: int = 0,
    ) -> None:
        self.files = [[track.stems.get(stem) for stem in grouping.stems] for track in tracks]
        self.sampler, self.lengths = sampler, lengths
        self.dtype = torch.int16 if int16 else torch.float32
        self.augmentations = augmentations
        self._plain = plain
        self._stems, self._channels = len(grouping.stems), grouping.audio_channels
        self.shape = self._shape(max(lengths.values()))
        states = {
            track.stems[stem]: state
            for track in tracks
            for stem, state in track.states.items()
            if stem in track.stems
        }
        self._mapped = MappedFiles(states)

    def shape_at(self, epoch: int) -> tuple[int, int, int]:
        """Shape of the examples of an epoch."""
        return self._shape(samples_at(epoch, self.lengths))

    def _shape(self, samples: int) -> tuple[int, int, int]:
        if self.dtype == torch.int16:
            return self._stems, samples, self._channels
        return self._stems, self._channels, samples

    def fill(self, target: Tensor, position: Position) -> None:
        """Write the example at ``position`` into ``target``, of the shape ``shape_at(epoch)``.

        Raises:
            DataError: A file was removed or changed, or with int16 has another type or another
                number of channels.
        """
        samples = samples_at(position[0], self.lengths)
        crop = self.sampler.crop(position, samples)
        gains, swaps = self._draw_gains_and_swaps(position)
        for stem, (track, start) in enumerate(zip(*crop, strict=True)):
            file = self.files[track][stem] if track >= 0 else None
            if file is None:  # missing stem, silent
                target[stem].zero_()
                continue
            source = self._mapped.crop(file, int(start), samples)
            if self.dtype == torch.float32:
                write_crop(source, target[stem], float(gains[stem]), bool(swaps[stem]))
                continue
            if source.dtype != torch.int16 or source.shape[1] != self._channels:
                raise DataError(
                    f"{file}: has {source.dtype} samples and "
                    f"{counted(source.shape[1], 'channel')}, expected "
                    f"int16 and {self._channels}; set --data.init_args.int16_to_device=false"
                )
            target[stem, : len(source)].copy_(source)
            target[stem, len(source) :].zero_()  # a track shorter than the crop ends in silence

    def _draw_gains_and_swaps(self, position: Position) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        stems = self._stems
        gains, swaps = np.ones(stems), np.zeros(stems, bool)
        for number, augmentation in enumerate(self.augmentations):
            random = generator(self.sampler.seed, AUGMENTATION + number, *position)
            augmented = stems - self._plain
            gain, swap = augmentation.gain_and_swap(augmentation.draw(random, augmented))
            gains[:augmented] *= gain
            swaps[:augmented] ^= swap
        return gains, swaps


class ValidationCrops(Dataset[Batch | PartialCrops]):
    """Crops at fixed starts, evenly spaced over each track.

    Args:
        tracks: The tracks.
        grouping: Stems, sources and channels.
        segment_samples: Length of a crop.
        crops_per_track: Number of crops; fewer in a track with fewer possible starts.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        grouping: SourceGrouping,
        segment_samples: int,
        crops_per_track: int,
    ) -> None:
        self.grouping, self.segment_samples = grouping, segment_samples
        self._partial = any(track.unknown for track in tracks)
        self.origins: list[tuple[Track, int]] = []
        for track in tracks:
            last = max(0, track.samples - segment_samples)
            starts = np.unique(np.linspace(0, last, crops_per_track, dtype=np.int64))
            self.origins += [(track, start) for start in starts.tolist()]

    def __len__(self) -> int:
        return len(self.origins)

    def origin(self, number: int) -> tuple[Track, int]:
        """Track and first sample of a crop."""
        return self.origins[number]

    def __getitem__(self, number: int) -> Batch | PartialCrops:
        track, start = self.origins[number]
        mixture, targets = self.grouping.read(track, start, self.segment_samples)
        missing = (0, self.segment_samples - mixture.shape[-1])
        crop = Batch(nn.functional.pad(mixture, missing), nn.functional.pad(targets, missing))
        return PartialCrops(*crop, self.grouping.known_in(track)) if self._partial else crop


class WholeTracks(Dataset[TrackBatch]):
    """Whole tracks at their own sample rates.

    Args:
        tracks: The tracks.
        grouping: Stems, sources and channels.
    """

    def __init__(self, tracks: Sequence[Track], grouping: SourceGrouping) -> None:
        self.tracks, self.grouping = tracks, grouping

    def __len__(self) -> int:
        return len(self.tracks)

    def origin(self, number: int) -> tuple[Track, int]:
        """Track and first sample of an item."""
        return self.tracks[number], 0

    def __getitem__(self, number: int) -> TrackBatch:
        track = self.tracks[number]
        return TrackBatch(track.name, *self.grouping.read(track), track.sample_rate)
