"""What the loaders hand out: crops by position, crops at fixed places, and whole tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.audio import Audio, DataError
from datamodules.sampling import Position, draw_crop
from datamodules.tracks import STEMS, Track


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
    """

    sources: Mapping[str, Sequence[str]]
    audio_channels: int

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
            stems: Waveforms in the order of ``STEMS``, shape (..., stems, C, T).

        Returns:
            Waveforms, shape (..., S, C, T).
        """
        sums = [
            stems[..., [STEMS.index(stem) for stem in group], :, :].sum(-3)
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
        stems = self.channels(track.read_stems(STEMS, start, samples))
        mixture = self.channels(track.read_mixture(start, samples))
        return Batch(torch.from_numpy(mixture), self.group(torch.from_numpy(stems)))


class TrainingCrops(Dataset[StemBatch]):
    """Crops of all stems, by position in the stream.

    Args:
        tracks: Tracks to draw from.
        listener: Tells the channels.
        segment_samples: Length of a crop.
        mix_probability: Probability that an example's stems come from different tracks.
        seed: Seed of the stream.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        listener: Listener,
        segment_samples: int,
        mix_probability: float,
        seed: int,
    ) -> None:
        self.tracks, self.listener = tracks, listener
        self.segment_samples, self.mix_probability, self.seed = (
            segment_samples,
            mix_probability,
            seed,
        )
        self.lengths = np.array([track.samples for track in tracks])

    def __getitem__(self, position: Position) -> StemBatch:
        crop = draw_crop(
            self.seed,
            position,
            self.lengths,
            self.segment_samples,
            len(STEMS),
            self.mix_probability,
        )
        shape = (len(STEMS), self.listener.audio_channels, self.segment_samples)
        stems = np.zeros(shape, np.float32)
        for number, stem in enumerate(STEMS):
            track = self.tracks[crop.tracks[number]]
            audio = track.read(stem, int(crop.starts[number]), self.segment_samples)
            # A track shorter than the segment ends in silence.
            stems[number, :, : audio.shape[-1]] = self.listener.channels(audio)
        return StemBatch(torch.from_numpy(stems), torch.tensor(position))


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

    def __getitem__(self, number: int) -> TrackBatch:
        track = self.tracks[number]
        return TrackBatch(track.name, *self.listener.read(track))


def grouping(sources: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Which stems make each of the model's sources.

    Args:
        sources: Names of stems, or names of sources each with its stems.

    Returns:
        Source name -> names of its stems.

    Raises:
        DataError: A source names a stem that the data set does not have.
    """
    groups = (
        {name: list(stems) for name, stems in sources.items()}
        if isinstance(sources, Mapping)
        else {name: [name] for name in sources}
    )
    if not groups:
        raise DataError("sources is empty: name at least one of " + ", ".join(STEMS))
    for name, stems in groups.items():
        unknown = [stem for stem in stems if stem not in STEMS]
        if unknown or not stems:
            raise DataError(
                f"source {name!r} is made of {stems}: known stems are {', '.join(STEMS)}; group "
                "them as in {vocals: [vocals], accompaniment: [drums, bass, other]}"
            )
        if len(set(stems)) < len(stems):
            raise DataError(f"source {name!r} is made of {stems}: name each stem once")
    return groups
