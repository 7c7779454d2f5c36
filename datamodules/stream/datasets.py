"""What the loaders hand out: crops by position, crops at fixed places, and whole tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.augmentations.base import Parameters, ReadingAugmentation
from datamodules.files.audio import Audio, DataError
from datamodules.files.mapped_wav import Mappings
from datamodules.files.write_crop import write_crop
from datamodules.stream.crops import CropDraw, Position, samples_at
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE, STEMS


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


@dataclass(frozen=True)
class Listener:
    """How a model hears tracks: its sources and its channels.

    Attributes:
        sources: Source name -> names of the stems that it sums.
        audio_channels: Number of channels.
        stems: Names of all stems of the data set, in their order in tensors.
    """

    sources: Mapping[str, Sequence[str]]
    audio_channels: int
    stems: Sequence[str] = STEMS

    def channels(self, audio: Audio) -> Audio:
        """Bring audio to the wanted number of channels.

        Args:
            audio: Waveforms, shape (..., channels, T).

        Returns:
            Waveforms, shape (..., audio_channels, T): one is the average, and mono is repeated.
        """
        if audio.shape[-2] == self.audio_channels:
            return audio
        if self.audio_channels == 1:
            average: Audio = audio.mean(-2, keepdims=True)
            return average
        return np.repeat(audio, self.audio_channels, axis=-2)

    def group(self, stems: Tensor) -> Tensor:
        """Sum stems to sources.

        Args:
            stems: Waveforms in the order of ``self.stems``, shape (..., stems, C, T).

        Returns:
            Waveforms, shape (..., S, C, T).
        """
        sums = [
            stems[..., [self.stems.index(stem) for stem in group], :, :].sum(-3)
            for group in self.sources.values()
        ]
        return torch.stack(sums, -3)

    def read(self, track: Track, start: int = 0, samples: int | None = None) -> Batch:
        """Read a track's own mixture, which a separator meets, and the sources.

        Args:
            track: The track.
            start: First sample.
            samples: Number of samples; by default all that follow.

        Returns:
            Mixture, shape (C, T), and targets, shape (S, C, T).
        """
        stems = self.channels(track.read_stems(self.stems, start, samples))
        mixture = self.channels(track.read_mixture(start, samples))
        return Batch(torch.from_numpy(mixture), self.group(torch.from_numpy(stems)))


class TrainingCrops:
    """Crops of all stems, by position in the stream, written where they are wanted.

    Args:
        tracks: Tracks to draw from, in the order in which ``draw`` numbers them.
        listener: Tells stems and channels.
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
        listener: Listener,
        draw: CropDraw,
        lengths: Mapping[int, int],
        augmentations: Sequence[ReadingAugmentation] = (),
        raw: bool = False,
    ) -> None:
        self.files = [[track.stems.get(stem) for stem in listener.stems] for track in tracks]
        self.draw, self.lengths = draw, lengths
        self.dtype = torch.int16 if raw else torch.float32
        self.augmentations = augmentations
        self._stems, self._channels = len(listener.stems), listener.audio_channels
        self.shape = self._shape(max(lengths.values()))
        self._mappings = Mappings(
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
            gain, swap = augmentation.while_reading(parameters)
            gains, swaps = gains * gain, swaps ^ swap
        return gains, swaps


class ValidationCrops(Dataset[Batch]):
    """Crops at fixed places, spread evenly over each track.

    Args:
        tracks: The tracks.
        listener: Tells sources and channels.
        segment_samples: Length of a crop.
        crops_per_track: Number of places; fewer in a track that has no more.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        listener: Listener,
        segment_samples: int,
        crops_per_track: int,
    ) -> None:
        self.listener, self.segment_samples = listener, segment_samples
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
        mixture, targets = self.listener.read(track, start, self.segment_samples)
        missing = (0, self.segment_samples - mixture.shape[-1])
        return Batch(nn.functional.pad(mixture, missing), nn.functional.pad(targets, missing))


class WholeTracks(Dataset[TrackBatch]):
    """Whole tracks, one an item.

    Args:
        tracks: The tracks.
        listener: Tells sources and channels.
    """

    def __init__(self, tracks: Sequence[Track], listener: Listener) -> None:
        self.tracks, self.listener = tracks, listener

    def __len__(self) -> int:
        return len(self.tracks)

    def place(self, number: int) -> tuple[Track, int]:
        """A track, and its first sample."""
        return self.tracks[number], 0

    def __getitem__(self, number: int) -> TrackBatch:
        track = self.tracks[number]
        return TrackBatch(track.name, *self.listener.read(track))


def grouping(
    sources: Sequence[str] | Mapping[str, Sequence[str]], stems: Sequence[str] = STEMS
) -> dict[str, list[str]]:
    """Which stems make each of the model's sources.

    Args:
        sources: Names of stems, or names of sources each with its stems.
        stems: Names of all stems of the data set.

    Returns:
        Source name -> names of its stems.

    Raises:
        DataError: A source names a stem that the data set does not have.
    """
    if not stems or len(set(stems)) < len(stems) or MIXTURE in stems:
        raise DataError(
            f"stems is [{', '.join(stems)}]: name each stem of the data set once, without the "
            f"{MIXTURE}, as in [{', '.join(STEMS)}]"
        )
    groups = (
        {name: list(group) for name, group in sources.items()}
        if isinstance(sources, Mapping)
        else {name: [name] for name in sources}
    )
    if not groups:
        raise DataError("sources is empty: name at least one of " + ", ".join(stems))
    for name, group in groups.items():
        unknown = [stem for stem in group if stem not in stems]
        if unknown or not group:
            raise DataError(
                f"source {name!r} is made of {group}: known stems are {', '.join(stems)}; group "
                "them as in {vocals: [vocals], accompaniment: [drums, bass, other]}, or tell the "
                "data set's own with stems"
            )
        if len(set(group)) < len(group):
            raise DataError(f"source {name!r} is made of {group}: name each stem once")
    return groups


def check_sources(names: Sequence[str], sources: Sequence[str], argument: str) -> None:
    """Check that every name is one of the model's sources.

    Args:
        names: Names that the user gave.
        sources: Names of the model's sources.
        argument: The argument that held them, for the message.

    Raises:
        ValueError: A name is unknown, or a source is left out.
    """
    unknown, missing = sorted(set(names) - set(sources)), sorted(set(sources) - set(names))
    if unknown or missing:
        raise ValueError(
            f"{argument} names {', '.join(names)}, the sources are {', '.join(sources)}:"
            + (f" {', '.join(unknown)} is unknown;" if unknown else "")
            + (f" {', '.join(missing)} is missing;" if missing else "")
            + " name each source once"
        )
