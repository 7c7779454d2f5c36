"""Augmentations of stems, one class each, run on the batch's own device.

Drawing is apart from applying: ``draw`` takes an example's own random generator
and returns plain numbers, ``forward`` applies the numbers of a whole batch. So
an example is augmented alike on any device, rank and in any batch. The mixture
is summed afterwards, so it always holds what the targets hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class Augmentation(nn.Module, ABC):
    """What every augmentation can do."""

    @abstractmethod
    def draw(self, random: np.random.Generator, stems: int) -> npt.NDArray[np.float32]:
        """Draw the parameters of one example.

        Args:
            random: The example's generator.
            stems: Number of stems.

        Returns:
            Parameters, shape (stems,).
        """

    @abstractmethod
    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Apply the parameters of a batch.

        Args:
            stems: Waveforms, shape (B, stems, C, T).
            parameters: What ``draw`` gave for each example, shape (B, stems).

        Returns:
            Augmented waveforms, same shape; the input is left as it was.
        """


class _Switch(Augmentation):
    """An augmentation that either happens to a stem or does not.

    Args:
        probability: Probability per stem, in [0, 1].
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability}: give a number from 0 to 1")
        self.probability = probability

    def draw(self, random: np.random.Generator, stems: int) -> npt.NDArray[np.float32]:
        return (random.random(stems) < self.probability).astype(np.float32)


class Gain(Augmentation):
    """Random gain of each stem, uniform in decibels.

    Args:
        lowest_db: Smallest gain, dB.
        highest_db: Largest gain, dB.
    """

    def __init__(self, lowest_db: float = -12.0, highest_db: float = 2.0) -> None:
        super().__init__()
        if lowest_db > highest_db:
            raise ValueError(f"lowest_db {lowest_db} is above highest_db {highest_db}: swap them")
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw(self, random: np.random.Generator, stems: int) -> npt.NDArray[np.float32]:
        """Draw a factor for each stem."""
        decibels = random.uniform(self.lowest_db, self.highest_db, stems)
        return (10 ** (decibels / 20)).astype(np.float32)

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Multiply each stem by its factor."""
        return stems * parameters[..., None, None]


class ChannelSwap(_Switch):
    """Reverse the order of a stem's channels: left becomes right."""

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Swap the channels where the parameter is 1."""
        return torch.where(parameters[..., None, None] > 0, stems.flip(-2), stems)


class Polarity(_Switch):
    """Invert the polarity of a stem."""

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Change the sign where the parameter is 1."""
        return stems * (1 - 2 * parameters[..., None, None])
