"""Augmentations of level: soft clipping and limiting."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.augmentations.base import (
    Parameters,
    Probability,
    StemAugmentation,
    check_range,
    decibels_to_factors,
    on_device,
)


class SoftClip(StemAugmentation):
    """Saturate a stem: tanh(g x) / g, which leaves quiet passages as loud as they were.

    Args:
        lowest_db: Smallest drive 20 log10(g), dB.
        highest_db: Largest drive, dB; the result stays below 1/g.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = 0.0  # the limit of no drive at all is the stem itself

    def __init__(
        self,
        lowest_db: float = 0.0,
        highest_db: float = 12.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the factor g for each stem."""
        return decibels_to_factors(random.uniform(self.lowest_db, self.highest_db, stems))

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Saturate each stem."""
        drive = on_device(parameters[:, 0], waveforms)
        return torch.tanh(waveforms * drive) / drive


class Limiter(StemAugmentation):
    """Keep a stem below a ceiling by a gain that sees peaks coming.

    The gain reduction in dB that each sample needs falls off at the release rate, is
    held over the lookahead before the peak, and is averaged over the lookahead, so that
    it grows in a straight line up to the peak, without a delay. All channels of a stem
    share one gain. An average of values that all are at least what a sample needs is so
    too, which is why no peak gets through.

    Args:
        lowest_db: Lowest ceiling, dB relative to full scale.
        highest_db: Highest ceiling, dB relative to full scale.
        lookahead_seconds: How long before a peak the gain begins to fall, seconds.
        release_db_per_second: How fast the gain comes back.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = math.inf

    def __init__(
        self,
        lowest_db: float = -18.0,
        highest_db: float = -3.0,
        lookahead_seconds: float = 0.005,
        release_db_per_second: float = 100.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        if not 0 <= lookahead_seconds < math.inf:
            raise ValueError(f"lookahead_seconds is {lookahead_seconds}: give 0 or more")
        if not 0 < release_db_per_second < math.inf:
            raise ValueError(
                f"release_db_per_second is {release_db_per_second}: give a number above 0"
            )
        self.lowest_db, self.highest_db = lowest_db, highest_db
        self.lookahead_seconds = lookahead_seconds
        self.release_db_per_second = release_db_per_second

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a ceiling for each stem, as an amplitude."""
        return decibels_to_factors(random.uniform(self.lowest_db, self.highest_db, stems))

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Limit each stem."""
        ceilings = on_device(parameters[:, 0], waveforms)  # (N, 1, 1)
        peaks = waveforms.abs().amax(1).double()  # (N, T)
        needed = (20 * torch.log10(peaks / ceilings[..., 0])).clamp(min=0)
        # The largest of all straight falls that began at earlier peaks.
        fall = torch.arange(peaks.shape[-1], device=peaks.device, dtype=peaks.dtype)
        fall *= self.release_db_per_second / self.sample_rate
        released = (needed + fall).cummax(-1).values - fall
        window = round(self.lookahead_seconds * self.sample_rate) + 1
        ahead = _largest_ahead(nn.functional.pad(released, (window - 1, window - 1)), window)
        # All of the window's values are at least what the window's last sample needs.
        sums = nn.functional.pad(ahead.cumsum(-1), (1, 0))
        reductions = (sums[:, window:] - sums[:, :-window]) / window
        limited = waveforms * (10 ** (-reductions / 20)).to(waveforms)[:, None]
        # Only rounding is left to clip.
        return limited.clamp(-ceilings, ceilings)


def _largest_ahead(values: Tensor, window: int) -> Tensor:
    """Largest value among each one and the window - 1 that follow.

    Args:
        values: Shape (..., T).
        window: Number of values to look at.

    Returns:
        Shape (..., T - window + 1).
    """
    # Doubling what is covered takes log2(window) passes where max_pool1d takes window.
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        values = torch.maximum(values[..., :-step], values[..., step:])
        covered += step
    return values
