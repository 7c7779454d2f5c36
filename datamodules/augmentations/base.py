"""Augmentations of stems, one class each, run on the batch's own device.

Drawing is apart from applying: ``draw`` takes an example's own random generator
and returns plain numbers, ``forward`` applies the numbers of a whole batch. So
an example is augmented alike on any device, rank and in any batch. The mixture
is summed afterwards, so it always holds what the targets hold.

Here are the base and what works sample by sample; ``dynamics``, ``filters``, ``noise``,
``repitch`` and ``codec`` hold the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules.randomness import AUGMENTATION, Position, generator
from datamodules.tracks.layouts import STEMS

Parameters = npt.NDArray[np.floating]
Probability = float | dict[str, float]


class Augmentation(nn.Module, ABC):
    """What every augmentation can do.

    Args:
        probability: Probability that a stem is augmented, in [0, 1]: one number, or
            one a stem, as in ``{vocals: 0.5, drums: 0.2}``; stems not named stay as they are.
        together: One draw counts for all stems of an example, instead of one a stem.

    Attributes:
        neutral: Value of a stem's first parameter that leaves the stem as it was.
        sample_rate: Sample rate of the stems, Hz; the data module sets its own.
    """

    neutral: ClassVar[float]
    sample_rate: int = 44100

    def __init__(self, probability: Probability = 1.0, together: bool = False) -> None:
        super().__init__()
        named = probability if isinstance(probability, dict) else {"": probability}
        for stem, number in named.items():
            if stem not in ("", *STEMS):
                raise ValueError(
                    f"probability names the stem {stem!r}: known stems are {', '.join(STEMS)}"
                )
            if not 0 <= number <= 1:
                of_stem = f" of {stem}" if stem else ""
                raise ValueError(f"probability{of_stem} is {number}: give a number from 0 to 1")
        self.probability, self.together = probability, together

    def draw(self, random: np.random.Generator, stems: int) -> npt.NDArray[np.float32]:
        """Draw the parameters of one example.

        Args:
            random: The example's generator.
            stems: Number of stems, in the order of ``STEMS``.

        Returns:
            Parameters, shape (stems,) or (stems, k).
        """
        draws = 1 if self.together else stems
        drawn = self.draw_parameters(random, draws)
        happens = random.random(draws) < self._probabilities(stems)
        parameters = np.empty((stems, *drawn.shape[1:]), np.float32)
        parameters[:] = drawn
        parameters.reshape(stems, -1)[~happens, 0] = self.neutral
        return parameters

    def draw_at(self, seed: int, number: int, position: Position, stems: int) -> Parameters:
        """Draw the parameters of the example at a position of the stream.

        Args:
            seed: Seed of the stream.
            number: Which augmentation of the stream this is, counted from 0.
            position: Epoch and index of the example.
            stems: Number of stems.

        Returns:
            Parameters, as of ``draw``.
        """
        return self.draw(generator(seed, AUGMENTATION + number, *position), stems)

    def _probabilities(self, stems: int) -> Parameters:
        if not isinstance(self.probability, dict):
            return np.full(stems, self.probability)
        if stems != len(STEMS):
            raise ValueError(
                f"probability is given by stem, and there are {stems} stems instead of "
                f"{', '.join(STEMS)}: give one number for all"
            )
        return np.array([self.probability.get(stem, 0.0) for stem in STEMS])

    @abstractmethod
    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the parameters of stems that are all augmented.

        Args:
            random: The example's generator.
            stems: Number of stems to draw for.

        Returns:
            Parameters, shape (stems,) or (stems, k).
        """

    @abstractmethod
    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Apply the parameters of a batch.

        Args:
            stems: Waveforms, shape (B, stems, C, T).
            parameters: What ``draw`` gave for each example, shape (B, stems) or
                (B, stems, k), on any device; on the CPU the device is not waited for.

        Returns:
            Augmented waveforms, same shape; the input is left as it was.
        """


class StemAugmentation(Augmentation):
    """An augmentation that looks at one stem of one example at a time.

    Only the stems that are augmented reach ``alter``, so a probability saves its share
    of the cost, the others stay exactly as they were, and no stem can get into another.
    """

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Alter the stems whose first parameter is not neutral; see the base class."""
        table = parameters.cpu().reshape(*parameters.shape[:2], -1)  # (B, stems, k)
        example, stem = torch.nonzero(table[..., 0] != self.neutral, as_tuple=True)
        if len(example) == table.shape[0] * table.shape[1]:  # saves two copies
            return self.alter(stems.flatten(0, 1), table.flatten(0, 1)).view_as(stems)
        result = stems.clone()
        if len(example):
            place = example.to(stems.device), stem.to(stems.device)
            result[place] = self.alter(stems[place], table[example, stem])
        return result

    @abstractmethod
    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Augment waveforms, each by parameters of its own.

        Args:
            waveforms: Stems of any examples, shape (N, C, T).
            parameters: On the CPU, shape (N, k).

        Returns:
            Augmented waveforms, shape (N, C, T), which share no memory with what was given.
        """


class ReadingAugmentation(StemAugmentation):
    """An augmentation that costs nothing where the loader does it as it reads.

    A factor and the order of the channels are part of the pass that converts the samples
    (see ``crop_kernel``). The result is the same as of ``forward``.
    """

    @abstractmethod
    def while_reading(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """Say what parameters mean for a reader.

        Args:
            parameters: What ``draw`` gave, shape (stems,).

        Returns:
            Factor of each stem, and whether its channels are swapped, each shape (stems,).
        """


# ------------------------------------------------------ shared by augmentations


def check_range(unit: str, lowest: float, highest: float, above: float = -math.inf) -> None:
    """Refuse a pair of settings that is no range.

    Args:
        unit: What the names end in, as in ``lowest_db``.
        lowest: The lower end.
        highest: The upper end.
        above: What both must be above.

    Raises:
        ValueError: The range is empty, infinite, or too low.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(
            f"lowest_{unit} is {lowest} and highest_{unit} {highest}: give finite numbers"
        )
    if lowest > highest:
        raise ValueError(f"lowest_{unit} {lowest} is above highest_{unit} {highest}: swap them")
    if lowest <= above:
        raise ValueError(f"lowest_{unit} is {lowest}: give a number above {above:g}")


def decibels_to_factors(decibels: Parameters) -> Parameters:
    """Amplitude factors of gains in dB, same shape."""
    return np.asarray(10 ** (decibels / 20))


def log_uniform(
    random: np.random.Generator, lowest: float, highest: float, number: int
) -> Parameters:
    """Draw numbers whose logarithm is uniform, shape (number,)."""
    return np.exp(random.uniform(math.log(lowest), math.log(highest), number))


def on_device(parameters: Tensor, waveforms: Tensor) -> Tensor:
    """Bring parameters, shape (N, ...), to waveforms' device and type, shape (N, ..., 1, 1)."""
    return parameters.to(waveforms)[..., None, None]
