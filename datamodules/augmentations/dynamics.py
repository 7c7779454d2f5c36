"""Augmentations of dynamics: soft clipping and limiting."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from datamodules.augmentations.base import LevelAugmentation, Probability, on_device, require


class SoftClip(LevelAugmentation):
    """Saturate a stem: tanh(g x) / g, which preserves the level of quiet passages.

    Args:
        lowest_db: Smallest drive 20 log10(g), dB.
        highest_db: Largest drive, dB; the result stays below 1/g.
        probability: Probability per stem, one number or one per stem.
    """

    neutral = 0.0  # without drive the limit is the stem itself

    def __init__(
        self, lowest_db: float = 0.0, highest_db: float = 12.0, probability: Probability = 1.0
    ) -> None:
        super().__init__(lowest_db, highest_db, probability)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Saturate each stem."""
        drive = on_device(parameters[:, 0], waveforms)
        return torch.tanh(waveforms * drive) / drive


class Limiter(LevelAugmentation):
    """Look-ahead limiter: keep a stem below a ceiling without delay.

    The gain reduction in dB that each sample needs decays at the release rate, is held over the
    lookahead before a peak, and is then averaged over the lookahead, so it rises linearly up to the
    peak. All values in that average are at least what the sample needs, so no peak exceeds the
    ceiling. All channels of a stem share one gain.

    Args:
        lowest_db: Lowest ceiling, dB relative to full scale.
        highest_db: Highest ceiling, dB relative to full scale.
        lookahead_seconds: Time before a peak at which the gain begins to fall, seconds.
        release_db_per_second: Rate at which the gain recovers.
        probability: Probability per stem, one number or one per stem.
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
        super().__init__(lowest_db, highest_db, probability)
        lookahead, release = lookahead_seconds, release_db_per_second
        require(0 <= lookahead < math.inf, "lookahead_seconds", lookahead, "0 or more")
        require(0 < release < math.inf, "release_db_per_second", release, "a number above 0")
        self.lookahead_seconds, self.release_db_per_second = lookahead, release

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Limit each stem to its ceiling, an amplitude."""
        ceilings = on_device(parameters[:, 0], waveforms)  # (N, 1, 1)
        peaks = waveforms.abs().amax(1).double()  # (N, T)
        needed = (20 * torch.log10(peaks / ceilings[..., 0])).clamp(min=0)
        # Maximum over the linear decays that began at earlier peaks.
        decay = torch.arange(peaks.shape[-1], device=peaks.device, dtype=peaks.dtype)
        decay *= self.release_db_per_second / self.sample_rate
        released = (needed + decay).cummax(-1).values - decay
        window = round(self.lookahead_seconds * self.sample_rate) + 1
        held = _maximum_ahead(nn.functional.pad(released, (window - 1, window - 1)), window)
        sums = nn.functional.pad(held.cumsum(-1), (1, 0))
        reductions = (sums[:, window:] - sums[:, :-window]) / window
        limited = waveforms * (10 ** (-reductions / 20)).to(waveforms)[:, None]
        # Clips rounding errors only.
        return limited.clamp(-ceilings, ceilings)


def _maximum_ahead(values: Tensor, window: int) -> Tensor:
    """Maximum of each value and the window - 1 that follow, shape (..., T - window + 1)."""
    # Doubling the covered length takes log2(window) passes; max_pool1d takes window.
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        values = torch.maximum(values[..., :-step], values[..., step:])
        covered += step
    return values
