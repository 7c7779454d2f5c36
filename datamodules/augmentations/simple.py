"""Augmentations of level, channels and time, and the exchange of stems within a batch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augmentations.base import (
    Augmentation,
    FusedAugmentation,
    LevelAugmentation,
    Parameters,
    Probability,
    StemAugmentation,
    checked_range,
    on_device,
    require,
)
from datamodules.errors import counted


class Gain(LevelAugmentation, FusedAugmentation):
    """Random gain of each stem, uniform in decibels.

    Args:
        lowest_db: Smallest gain, dB.
        highest_db: Largest gain, dB.
        probability: Probability per stem, one number or one per stem.
    """

    neutral = 1.0

    def __init__(
        self, lowest_db: float = -12.0, highest_db: float = 2.0, probability: Probability = 1.0
    ) -> None:
        super().__init__(lowest_db, highest_db, probability)

    def gain_and_swap(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """The gains, without swaps."""
        return parameters, np.zeros(len(parameters), bool)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Multiply each stem by its gain."""
        return waveforms * on_device(parameters[:, 0], waveforms)


class _Switch(StemAugmentation):
    """Base of augmentations without parameters, which are either applied to a stem or not."""

    def __init__(self, probability: Probability = 0.5) -> None:
        super().__init__(probability)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        return np.ones(stems)


class ChannelSwap(_Switch, FusedAugmentation):
    """Reverse the order of a stem's channels: left becomes right.

    Args:
        probability: Probability per stem, one number or one per stem.
    """

    def gain_and_swap(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """A swap where it is applied."""
        return np.ones(len(parameters)), parameters > 0

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Swap the channels."""
        return waveforms.flip(-2)


class Polarity(_Switch, FusedAugmentation):
    """Invert the polarity of a stem.

    Args:
        probability: Probability per stem, one number or one per stem.
    """

    def gain_and_swap(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """A gain of -1 where it is applied."""
        return 1 - 2 * parameters, np.zeros(len(parameters), bool)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Change the sign."""
        return -waveforms


class Mono(_Switch):
    """Replace each channel of a stem by the average of its channels.

    Args:
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(self, probability: Probability = 0.1) -> None:
        super().__init__(probability)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Average the channels."""
        return waveforms.mean(-2, keepdim=True).repeat(1, waveforms.shape[-2], 1)


class Silence(_Switch):
    """Silence a stem, as in passages where an instrument does not play.

    Args:
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(self, probability: Probability = 0.1) -> None:
        super().__init__(probability)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(waveforms)


class Pan(StemAugmentation):
    """Pan a stereo stem between left and right at constant power.

    At position p in [-1, 1] the left channel is multiplied by sqrt(2) cos((1 + p) pi / 4) and the
    right one by sqrt(2) sin((1 + p) pi / 4) (sine-cosine panning law, scaled to 1 at the centre):
    the squares of the two factors always add up to 2.

    Args:
        width: Largest distance from the centre, in (0, 1]; 1 reaches a single channel.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(self, width: float = 0.5, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        require(0 < width <= 1, "width", width, "a number above 0, up to 1")
        self.width = width

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a position for each stem, from -1 (left) to 1 (right)."""
        return random.uniform(-self.width, self.width, stems)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Multiply each channel by its factor."""
        if waveforms.shape[1] != 2:
            raise ValueError(
                f"Pan needs stereo stems, these have {counted(waveforms.shape[1], 'channel')}: "
                "remove it from augmentations, or set audio_channels to 2"
            )
        angles = (1 + parameters.double()) * math.pi / 4
        factors = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], 1)
        return waveforms * on_device(factors, waveforms)[..., 0]


class TimeShift(StemAugmentation):
    """Shift each stem in time, by whole samples.

    Samples shifted out of the crop are lost, the other end is filled with zeros.

    Args:
        seconds: Largest shift in either direction, seconds.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(self, seconds: float = 0.5, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        require(0 < seconds < math.inf, "seconds", seconds, "a length above 0")
        self.seconds = seconds

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a shift for each stem, seconds; positive values delay."""
        return random.uniform(-self.seconds, self.seconds, stems)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Shift each stem."""
        samples = waveforms.shape[-1]
        shifts = (parameters.double() * self.sample_rate).round().long().to(waveforms.device)
        origins = torch.arange(samples, device=waveforms.device) - shifts[..., None]
        shifted = waveforms.gather(-1, origins.clamp(0, samples - 1).expand_as(waveforms))
        return torch.where((origins >= 0) & (origins < samples), shifted, 0.0)


class Remix(Augmentation):
    """Exchange stems between the examples of a batch.

    Each stem that takes part moves to a random example among those in which the same stem takes
    part (possibly its own), so a batch keeps all its stems in new combinations. Examples then
    depend on the part of the batch that is on their device, and so on the batch size and the number
    of ranks; the data module's ``mix_probability`` does not have this drawback.

    After Demucs' augmentation of the same name (Défossez et al. 2019, "Music Source Separation in
    the Waveform Domain", arXiv:1911.13254).

    Args:
        probability: Probability that a stem takes part, one number or one per stem.
    """

    mixes_examples = True

    def __init__(self, probability: Probability = 1.0) -> None:
        super().__init__(probability)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a sort key above 0 for each stem; the order of the keys is the permutation."""
        return 1 - random.random(stems)

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Give the n-th example that takes part the stem with the n-th smallest key."""
        keys = parameters.cpu()  # (B, stems)
        excluded = keys == self.neutral
        numbers = torch.arange(len(keys))[:, None].expand_as(keys)
        # Both list the examples that take part first, and the others behind in the same order.
        by_number = torch.argsort(torch.where(excluded, len(keys) + numbers, numbers), 0)
        by_key = torch.argsort(torch.where(excluded, 2.0 + numbers, keys), dim=0, stable=True)
        origins = torch.empty_like(by_key).scatter_(0, by_number, by_key)
        return stems[origins.to(stems.device), torch.arange(stems.shape[1], device=stems.device)]


class Mixup(Augmentation):
    """Add to a stem the same stem of another example of the batch, with a random gain.

    The sum is the stem of a song in which two such instruments play. Examples depend on the part of
    the batch that is on their device, as with ``Remix``. After ``mixup`` of ZFTurbo's
    Music-Source-Separation-Training, which draws the second stem from the data set; list the class
    twice for its third stem.

    Args:
        lowest_db: Smallest gain of the added stem, dB.
        highest_db: Largest gain of the added stem, dB.
        probability: Probability per stem, one number or one per stem.
    """

    mixes_examples = True

    def __init__(
        self, lowest_db: float = -6.0, highest_db: float = 3.5, probability: Probability = 0.2
    ) -> None:
        super().__init__(probability)
        self.range_db = checked_range("db", lowest_db, highest_db)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw for each stem an amplitude, and in [0, 1) which of the other examples is added."""
        amplitudes = 10 ** (random.uniform(*self.range_db, stems) / 20)
        return np.stack([amplitudes, random.random(stems)], 1)

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Add stems where the amplitude is not 0; a batch of one example stays unchanged."""
        examples = len(stems)
        if examples == 1:
            return stems.clone()
        gains, places = parameters.cpu().unbind(-1)  # (B, stems)
        example, stem = torch.nonzero(gains != self.neutral, as_tuple=True)
        # Cyclically, at a distance from 1 to the number of the others. Of numbers just below 1 the
        # product may be rounded up.
        distances = 1 + (places * (examples - 1)).long().clamp(max=examples - 2)
        other = (example + distances[example, stem]) % examples
        added = stems[other.to(stems.device), stem.to(stems.device)]
        result = stems.clone()
        result[example.to(stems.device), stem.to(stems.device)] += added * on_device(
            gains[example, stem], stems
        )
        return result
