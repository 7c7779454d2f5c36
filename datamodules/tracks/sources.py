"""The model's sources, which are sums of the data set's stems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.files.audio import Audio
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE, STEMS


@dataclass(frozen=True)
class SourceGrouping:
    """The model's sources and channels, and their computation from stems.

    Attributes:
        sources: Source name -> names of its stems; the source is their sum.
        audio_channels: Number of channels.
        stems: Names of all stems of the data set, in the order of tensors.
    """

    sources: Mapping[str, Sequence[str]]
    audio_channels: int
    stems: Sequence[str] = STEMS

    def channels(self, audio: Audio) -> Audio:
        """Convert audio, shape (..., channels, T), to the model's number of channels.

        The channels are averaged for a mono model; mono audio is repeated for other models.
        """
        if audio.shape[-2] == self.audio_channels:
            return audio
        if self.audio_channels == 1:
            average: Audio = audio.mean(-2, keepdims=True)
            return average
        return np.repeat(audio, self.audio_channels, axis=-2)

    def group(self, stems: Tensor) -> Tensor:
        """Sum stems, shape (..., stems, C, T), into sources, shape (..., S, C, T)."""
        sums = [
            stems[..., [self.stems.index(stem) for stem in group], :, :].sum(-3)
            for group in self.sources.values()
        ]
        return torch.stack(sums, -3)

    def known(self, stems: Tensor) -> Tensor:
        """Which sources are known, shape (..., S), given which stems are, shape (..., stems)."""
        groups = [
            stems[..., [self.stems.index(stem) for stem in group]].all(-1)
            for group in self.sources.values()
        ]
        return torch.stack(groups, -1)

    def known_in(self, track: Track) -> Tensor:
        """Which sources of a track are known, shape (S,)."""
        return self.known(torch.tensor([stem not in track.unknown for stem in self.stems]))

    def read(self, track: Track, start: int = 0, samples: int | None = None) -> Batch:
        """Read a track's own mixture, shape (C, T), and its sources, shape (S, C, T).

        Sources that are not known are silent.

        Args:
            track: The track.
            start: First sample.
            samples: Number of samples; by default up to the end.
        """
        stems = self.channels(track.read_stems(self.stems, start, samples))
        mixture = self.channels(track.read_mixture(start, samples))
        targets = self.group(torch.from_numpy(stems))
        if track.unknown:
            targets[~self.known_in(track)] = 0
        return Batch(torch.from_numpy(mixture), targets)


def grouping(
    sources: Sequence[str] | Mapping[str, Sequence[str]], stems: Sequence[str] = STEMS
) -> dict[str, list[str]]:
    """Determine the stems that each of the model's sources consists of.

    Args:
        sources: Names of stems, or source name -> names of its stems.
        stems: Names of all stems of the data set.

    Returns:
        Source name -> names of its stems.

    Raises:
        DataError: The stems or the sources are empty or not unique, or a stem is unknown.
    """
    if not stems or len(set(stems)) < len(stems) or MIXTURE in stems:
        raise DataError(
            f"stems is [{', '.join(stems)}]: list each stem of the data set once, without the "
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
                f"source {name!r} consists of {group}: known stems are {', '.join(stems)}; group "
                "them as in {vocals: [vocals], accompaniment: [drums, bass, other]}, or set stems "
                "to the data set's own"
            )
        if len(set(group)) < len(group):
            raise DataError(f"source {name!r} consists of {group}: list each stem once")
    return groups


def check_sources(names: Sequence[str], sources: Sequence[str], argument: str) -> None:
    """Raise a ``ValueError`` if names given by the user are not those of the model's sources.

    ``argument`` is the name of the option that set them, for the message.
    """
    unknown, missing = sorted(set(names) - set(sources)), sorted(set(sources) - set(names))
    if unknown or missing:
        raise ValueError(
            f"{argument} has {', '.join(names)}, the sources are {', '.join(sources)}:"
            + (f" {', '.join(unknown)} is unknown;" if unknown else "")
            + (f" {', '.join(missing)} is missing;" if missing else "")
            + " name each source once"
        )
