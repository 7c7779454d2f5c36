"""Base classes of augmentations, and functions that several of them use.

Drawing is separate from applying: ``draw`` takes the random generator of one example and returns
plain numbers, ``forward`` applies the numbers of a whole batch on the batch's device. An example is
therefore augmented the same way on any device, on any rank and in any batch. Mixtures are summed
after augmentation, so a mixture is always the sum of its stems.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules.randomness import Position, generator
from datamodules.tracks.layouts import STEMS

Parameters = npt.NDArray[np.floating]
Probability = float | dict[str, float]
_HIGHEST_DEFAULT_HZ = 10000.0
KEYS = 2**24
"""Integers below this are exact in float32, the type of parameters."""


class Augmentation(nn.Module, ABC):
    """Base of all augmentations.

    Args:
        probability: Probability that a stem is augmented, in [0, 1]: one number, or one per stem,
            as in ``{vocals: 0.5, drums: 0.2}``; stems that are not named stay unchanged.
        together: Draw once per example for all of its stems, instead of once per stem.

    Attributes:
        neutral: Value of a stem's first parameter that leaves the stem unchanged, by default 0.
        sample_rate: Sample rate of the stems, Hz; set by the data module.
        mixes_examples: Whether stems of other examples in the batch are used.
    """

    mixes_examples: ClassVar[bool] = False
    neutral: ClassVar[float] = 0.0
    sample_rate: int = 44100

    def __init__(self, probability: Probability = 1.0, together: bool = False) -> None:
        super().__init__()
        named = probability if isinstance(probability, dict) else {"": probability}
        for stem, number in named.items():
            if stem not in ("", *STEMS):
                raise ValueError(
                    f"probability names the stem {stem!r}: known stems are {', '.join(STEMS)}"
                )
            name = f"probability of {stem}" if stem else "probability"
            require(0 <= number <= 1, name, number, "a number from 0 to 1")
        self.probability, self.together = probability, together

    def check_sample_rate(self) -> None:
        """Raise a ``ValueError`` if settings do not suit the sample rate, once it is set.

        Of a range of frequencies ``range_hz``, what is above half the sample rate is not drawn. A
        range that is written with a default up to 10 kHz may exceed it; no other may.
        """
        lowest, highest = getattr(self, "range_hz", (0.0, 0.0))
        limit = self.sample_rate / 2
        if lowest >= limit or highest > max(limit, _HIGHEST_DEFAULT_HZ):
            raise ValueError(
                f"{type(self).__name__}: lowest_hz is {lowest:g} and highest_hz {highest:g}: audio "
                f"at {self.sample_rate} Hz has frequencies up to {limit:g} Hz; give lower ones"
            )

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
        applied = random.random(draws) < self._probabilities(stems)
        parameters = np.empty((stems, *drawn.shape[1:]), np.float32)
        parameters[:] = drawn
        parameters.reshape(stems, -1)[~applied, 0] = self.neutral
        return parameters

    def augment(
        self, stems: Tensor, seed: int, purpose: int, positions: Sequence[Position]
    ) -> Tensor:
        """Draw and apply the parameters of a batch.

        Args:
            stems: Waveforms, shape (B, stems, C, T).
            seed: Seed of the stream.
            purpose: Purpose of the draws, see ``datamodules.randomness``.
            positions: Epoch and index of each of the B examples.
        """
        drawn = [self.draw(generator(seed, purpose, *place), stems.shape[1]) for place in positions]
        augmented: Tensor = self(stems, torch.from_numpy(np.stack(drawn)))
        return augmented

    def _probabilities(self, stems: int) -> Parameters:
        if not isinstance(self.probability, dict):
            return np.full(stems, self.probability)
        if stems != len(STEMS):
            raise ValueError(
                f"probability is given per stem for {', '.join(STEMS)}, but the number "
                f"of stems is {stems}: give one number for all"
            )
        return np.array([self.probability.get(stem, 0.0) for stem in STEMS])

    @abstractmethod
    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw parameters as if every stem were augmented.

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
            parameters: Result of ``draw`` for each example, shape (B, stems) or (B, stems, k), on
                any device; the CPU avoids a synchronisation with the GPU.

        Returns:
            Augmented waveforms, same shape; the input is not modified.
        """


class StemAugmentation(Augmentation):
    """Base of augmentations that process each stem of each example independently.

    Only the stems that are augmented reach ``alter``: a lower probability costs less, the other
    stems stay bit-identical, and no stem can leak into another.
    """

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        """Augment the stems whose first parameter is not neutral; see the base class."""
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
        """Augment waveforms, each with its own parameters.

        Args:
            waveforms: Stems of any examples, shape (N, C, T).
            parameters: On the CPU, shape (N, k).

        Returns:
            Augmented waveforms, shape (N, C, T), in new memory.
        """


class LevelAugmentation(StemAugmentation):
    """Base of augmentations whose only parameter is an amplitude, uniform in decibels."""

    def __init__(self, lowest_db: float, highest_db: float, probability: Probability) -> None:
        super().__init__(probability)
        self.range_db = checked_range("db", lowest_db, highest_db)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw an amplitude for each stem."""
        return np.asarray(10 ** (random.uniform(*self.range_db, stems) / 20))


class FusedAugmentation(StemAugmentation):
    """Base of augmentations that the loader applies at no cost while it converts samples.

    A gain and a swap of channels are part of that conversion (see ``write_crop``). The result
    equals that of ``forward``.
    """

    @abstractmethod
    def gain_and_swap(self, parameters: Parameters) -> tuple[Parameters, npt.NDArray[np.bool_]]:
        """Express parameters as gains and swaps of channels.

        Args:
            parameters: Result of ``draw``, shape (stems,).

        Returns:
            Gain of each stem, and whether its channels are swapped, each shape (stems,).
        """


# ------------------------------------------------------ functions that augmentations share


def checked_range(
    unit: str, lowest: float, highest: float, above: float = -math.inf
) -> tuple[float, float]:
    """Return the ends of a range, if it is finite, not empty and above a bound.

    Args:
        unit: Suffix of the arguments' names, as in ``lowest_db``.
        lowest: Lower end.
        highest: Upper end.
        above: Exclusive lower bound of both.

    Raises:
        ValueError: The range is empty, infinite or too low.
    """
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(
            f"lowest_{unit} is {lowest} and highest_{unit} {highest}: give finite numbers"
        )
    if lowest > highest:
        raise ValueError(f"lowest_{unit} {lowest} is above highest_{unit} {highest}: swap them")
    require(lowest > above, f"lowest_{unit}", lowest, f"a number above {above:g}")
    return lowest, highest


def require(valid: bool, name: str, value: float, expected: str) -> None:
    """Raise a ValueError that names an argument and what to give, unless it is valid."""
    if not valid:
        raise ValueError(f"{name} is {value}: give {expected}")


def on_device(parameters: Tensor, waveforms: Tensor) -> Tensor:
    """Move parameters, shape (N, ...), to the waveforms' device and type, shape (N, ..., 1, 1)."""
    return parameters.to(waveforms)[..., None, None]
