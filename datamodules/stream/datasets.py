"""What the loaders hand out: crops by position, crops at fixed places, and whole tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.augmentations.base import FusedAugmentation, Parameters
from datamodules.batches import Batch, TrackBatch
from datamodules.errors import DataError
from datamodules.files.mapped_wav import MappedFiles
from datamodules.files.write_crop import write_crop
from datamodules.randomness import Position
from datamodules.stream.crops import CropSampler
from datamodules.stream.curriculum import samples_at
from datamodules.tracks.index import Track
from datamodules.tracks.sources import SourceGrouping


class TrainingCrops:
    """Crops of all stems, by position in the stream, written where they are wanted.

    Args:
        tracks: Tracks to draw from, in the order in which ``draw`` numbers them.
        grouping: Stems, sources and channels.
        draw: Draws which crop is which.
        lengths: First epoch -> length of the crops from there on, samples.
        augmentations: The first ones of the stream, done in the pass that reads.
        raw: Hand out 16-bit samples as the files have them, in place of floats.

    Attributes:
        shape: Shape of the longest example: (stems, C, T), or (stems, T, C) if raw.
        dtype: Type of its values.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        grouping: SourceGrouping,
        draw: CropSampler,
        lengths: Mapping[int, int],
        augmentations: Sequence[FusedAugmentation] = (),
        raw: bool = False,
    ) -> None:
        self.files = [[track.stems.get(stem) for stem in grouping.stems] for track in tracks]
        self.draw, self.lengths = draw, lengths
        self.dtype = torch.int16 if raw else torch.float32
        self.augmentations = augmentations
        self._stems, self._channels = len(grouping.stems), grouping.audio_channels
        self.shape = self._shape(max(lengths.values()))
        self._mappings = MappedFiles(
            {
                track.stems[stem]: state
                for track in tracks
                for stem, state in track.states.items()
                if stem in track.stems
            }
        )

    def shape_at(self, epoch: int) -> tuple[int, int, int]:
        """Shape of the examples of an epoch."""
        return self._shape(samples_at(epoch, self.lengths))

    def _shape(self, samples: int) -> tuple[int, int, int]:
        if self.dtype == torch.int16:
            return self._stems, samples, self._channels
        return self._stems, self._channels, samples

    def fill(self, stems: Tensor, position: Position) -> None:
        """Write an example.

        Args:
            stems: Where it goes, of the epoch's shape and of ``dtype``.
            position: Its epoch and index.

        Raises:
            DataError: A file was removed or changed, or is not as raw examples need it.
        """
        samples = samples_at(position[0], self.lengths)
        crop = self.draw.crop(position, samples)
        gains, swaps = self._draw_changes(position)
        for stem, (track, start) in enumerate(zip(*crop, strict=True)):
            file = self.files[track][stem]
            if file is None:  # a stem that the track does not have
                stems[stem].zero_()
                continue
            source = self._mappings.crop(file, int(start), samples)
            if self.dtype == torch.float32:
                write_crop(source, stems[stem], float(gains[stem]), bool(swaps[stem]))
                continue
            if source.dtype != torch.int16 or source.shape[1] != self._channels:
                raise DataError(
                    f"{file}: {source.dtype} samples of {source.shape[1]} channels, int16 of "
                    f"{self._channels} were expected; set --data.init_args.int16_to_device=false"
                )
            target = stems[stem]
            if len(source) < samples:  # a track shorter than the segment ends in silence
                target[len(source) :].zero_()
                target = target[: len(source)]
            target.copy_(source)

    def _draw_changes(self, position: Position) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        stems = self._stems
        gains, swaps = np.ones(stems), np.zeros(stems, bool)
        for number, augmentation in enumerate(self.augmentations):
            parameters = augmentation.draw_at(self.draw.seed, number, position, stems)
            gain, swap = augmentation.gain_and_swap(parameters)
            gains, swaps = gains * gain, swaps ^ swap
        return gains, swaps


class ValidationCrops(Dataset[Batch]):
    """Crops at fixed places, spread evenly over each track.

    Args:
        tracks: The tracks.
        grouping: Stems, sources and channels.
        segment_samples: Length of a crop.
        crops_per_track: Number of places; fewer in a track that has no more.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        grouping: SourceGrouping,
        segment_samples: int,
        crops_per_track: int,
    ) -> None:
        self.grouping, self.segment_samples = grouping, segment_samples
        self.places = [
            (track, int(start))
            for track in tracks
            for start in np.unique(
                np.linspace(
                    0, max(0, track.samples - segment_samples), crops_per_track, dtype=np.int64
                )
            )
        ]

    def __len__(self) -> int:
        return len(self.places)

    def place(self, number: int) -> tuple[Track, int]:
        """Track and first sample of a crop."""
        return self.places[number]

    def __getitem__(self, number: int) -> Batch:
        track, start = self.places[number]
        mixture, targets = self.grouping.read(track, start, self.segment_samples)
        missing = (0, self.segment_samples - mixture.shape[-1])
        return Batch(nn.functional.pad(mixture, missing), nn.functional.pad(targets, missing))


class WholeTracks(Dataset[TrackBatch]):
    """Whole tracks, one an item.

    Args:
        tracks: The tracks.
        grouping: Stems, sources and channels.
    """

    def __init__(self, tracks: Sequence[Track], grouping: SourceGrouping) -> None:
        self.tracks, self.grouping = tracks, grouping

    def __len__(self) -> int:
        return len(self.tracks)

    def place(self, number: int) -> tuple[Track, int]:
        """A track, and its first sample."""
        return self.tracks[number], 0

    def __getitem__(self, number: int) -> TrackBatch:
        track = self.tracks[number]
        return TrackBatch(track.name, *self.grouping.read(track))
