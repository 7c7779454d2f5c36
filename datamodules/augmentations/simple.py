"""Augmentations of levels, channels and time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augmentations.base import (
    Augmentation,
    Parameters,
    Probability,
    ReadingAugmentation,
    StemAugmentation,
    check_range,
    decibels_to_factors,
    on_device,
)


class _Switch(StemAugmentation):
    """An augmentation without parameters: it happens to a stem or it does not.

    Args:
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0

    def __init__(self, probability: Probability = 0.5) -> None:
        super().__init__(probability)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        return np.ones(stems)


class Gain(ReadingAugmentation):
    """Random gain of each stem, uniform in decibels.

    Args:
        lowest_db: Smallest gain, dB.
        highest_db: Largest gain, dB.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 1.0

    def __init__(
        self,
        lowest_db: float = -12.0,
        highest_db: float = 2.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a factor for each stem."""
        return decibels_to_factors(random.uniform(self.lowest_db, self.highest_db, stems))

    def while_reading(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """Factors as they were drawn."""
        return parameters, np.zeros(len(parameters), bool)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Multiply each stem by its factor."""
        return waveforms * on_device(parameters[:, 0], waveforms)


class ChannelSwap(_Switch, ReadingAugmentation):
    """Reverse the order of a stem's channels: left becomes right.

    Args:
        probability: Probability per stem, one number or one a stem.
    """

    def while_reading(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """Swapped where it happens."""
        return np.ones(len(parameters)), parameters > 0

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Swap the channels."""
        return waveforms.flip(-2)


class Polarity(_Switch, ReadingAugmentation):
    """Invert the polarity of a stem.

    Args:
        probability: Probability per stem, one number or one a stem.
    """

    def while_reading(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """Factor -1 where it happens."""
        return 1 - 2 * parameters, np.zeros(len(parameters), bool)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Change the sign."""
        return -waveforms


class Mono(_Switch):
    """Put the average of a stem's channels into each of them.

    Args:
        probability: Probability per stem, one number or one a stem.
    """

    def __init__(self, probability: Probability = 0.1) -> None:
        super().__init__(probability)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Average the channels."""
        return waveforms.mean(-2, keepdim=True).repeat(1, waveforms.shape[-2], 1)


class Silence(_Switch):
    """Silence a stem, as in passages where an instrument rests.

    Args:
        probability: Probability per stem, one number or one a stem.
    """

    def __init__(self, probability: Probability = 0.1) -> None:
        super().__init__(probability)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Put zeros in place of the stem."""
        return torch.zeros_like(waveforms)


class Pan(StemAugmentation):
    """Move a stereo stem between left and right at constant power.

    At position p the left channel is multiplied by sqrt(2) cos((1 + p) pi / 4) and the
    right one by sqrt(2) sin((1 + p) pi / 4): the squares of the two add up to 2
    everywhere, and the centre leaves the stem as it was (the sine-cosine panning
    law, scaled to 1 at the centre).

    Args:
        width: Largest distance from the centre, in (0, 1]; 1 reaches one channel alone.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0

    def __init__(self, width: float = 0.5, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        if not 0 < width <= 1:
            raise ValueError(f"width is {width}: give a number above 0, up to 1")
        self.width = width

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a position for each stem, -1 being left and 1 right."""
        return random.uniform(-self.width, self.width, stems)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Multiply each channel by its factor."""
        if waveforms.shape[1] != 2:
            raise ValueError(
                f"Pan needs stereo stems, these have {waveforms.shape[1]} channels: leave it out "
                "of augmentations, or set audio_channels to 2"
            )
        angles = (1 + parameters.double()) * math.pi / 4
        factors = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], 1)
        return waveforms * on_device(factors, waveforms)[..., 0]


class TimeShift(StemAugmentation):
    """Shift each stem in time, by whole samples.

    What is shifted out of the crop is lost, and silence comes in at the other end.

    Args:
        seconds: Largest shift in either direction, seconds.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0

    def __init__(self, seconds: float = 0.5, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds is {seconds}: give a length above 0")
        self.seconds = seconds

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a shift for each stem in seconds; a positive one delays."""
        return random.uniform(-self.seconds, self.seconds, stems)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Shift each stem."""
        samples = waveforms.shape[-1]
        shifts = (parameters[:, 0].double() * self.sample_rate).round().long()
        origins = (
            torch.arange(samples, device=waveforms.device)
            - shifts.to(waveforms.device)[:, None, None]
        )
        shifted = waveforms.gather(-1, origins.clamp(0, samples - 1).expand_as(waveforms))
        return torch.where((origins >= 0) & (origins < samples), shifted, 0.0)


class Remix(Augmentation):
    """Exchange stems between the examples of a batch.

    Each stem that takes part goes to a random one of the examples in which that stem
    takes part (perhaps its own), so that a batch keeps all its stems but in new company.
    It makes an example depend on the share of the batch that lies on its device, and so
    on the batch size and the number of ranks; the stream's own ``mix_probability`` does
    not, and is the better default.

    After the augmentation of the same name in Demucs (Défossez et al. 2019, "Music
    Source Separation in the Waveform Domain", arXiv:1911.13254).

    Args:
        probability: Probability per stem that it takes part, one number or one a stem.
    """

    neutral = 0.0

    def __init__(self, probability: Probability = 1.0) -> None:
        super().__init__(probability)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a key above 0 for each stem; the order of the keys is the permutation."""
        return 1 - random.random(stems)

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Give the n-th example that takes part the stem with the n-th smallest key."""
        keys = parameters.cpu()  # (B, stems)
        rests = keys == self.neutral
        numbers = torch.arange(len(keys))[:, None].expand_as(keys)
        # Both list the examples that take part first; those that rest follow in one order.
        by_number = torch.argsort(torch.where(rests, len(keys) + numbers, numbers), 0)
        by_key = torch.argsort(torch.where(rests, 2.0 + numbers, keys), dim=0, stable=True)
        origins = torch.empty_like(by_key).scatter_(0, by_number, by_key)
        return stems[origins.to(stems.device), torch.arange(stems.shape[1], device=stems.device)]
