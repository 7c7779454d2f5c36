"""Shift trick: average the estimates of randomly delayed mixtures.

Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the Waveform Domain":
randomised equivariant stabilisation. A model with strides is not time-equivariant; the mean over
several random delays is closer to it, at as many times the cost. Delays also move the borders of
chunks, so that errors there average out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


def check_shifts(shifts: int) -> None:
    """Raise ``ValueError`` if a number of shifts is negative."""
    if shifts < 0:
        raise ValueError(f"shifts is {shifts}: give 0 (no shifts) or a positive number")


def draw_delays(shifts: int, sample_rate: int, seed: int) -> list[int]:
    """Draw random delays, samples, from 0 to half a second as in the paper."""
    longest = round(0.5 * sample_rate)
    generator = torch.Generator().manual_seed(seed)
    delays: list[int] = torch.randint(longest + 1, (shifts,), generator=generator).tolist()
    return delays


def average_over_delays(
    separate: Callable[[Iterable[Tensor]], Iterator[Tensor]],
    blocks: Iterable[Tensor],
    delays: list[int],
) -> Iterator[Tensor]:
    """Separate the mixture once per delay, in parallel streams, and average the estimates.

    Args:
        separate: Maps consecutive blocks of a mixture (C, n) to parts of estimates (S, C, n).
        blocks: Consecutive blocks of the mixture.
        delays: Delays, samples, at least one.

    Yields:
        Consecutive parts of the mean, shape (S, C, n), in total as long as the mixture.
    """
    copies = itertools.tee(blocks, len(delays))
    streams = [
        _drop_first(separate(_delayed(copy, delay)), delay)
        for copy, delay in zip(copies, delays, strict=True)
    ]
    parts = [next(stream, None) for stream in streams]
    while True:
        pending = [part for part in parts if part is not None]
        if len(pending) < len(parts):
            return  # all streams have the same length
        samples = min(part.shape[-1] for part in pending)
        mean = pending[0][..., :samples]
        for number, part in enumerate(pending[1:], 2):
            # lerp between equal values returns that value without rounding.
            mean = torch.lerp(mean, part[..., :samples], 1 / number)
        yield mean
        parts = [
            part[..., samples:] if part.shape[-1] > samples else next(stream, None)
            for part, stream in zip(pending, streams, strict=True)
        ]


def _delayed(blocks: Iterable[Tensor], delay: int) -> Iterator[Tensor]:
    for number, block in enumerate(blocks):
        yield block if number else torch.nn.functional.pad(block, (delay, 0))


def _drop_first(parts: Iterable[Tensor], delay: int) -> Iterator[Tensor]:
    """Drop the first ``delay`` samples of a stream, and empty parts."""
    for part in parts:
        rest = part[..., delay:]
        delay = max(0, delay - part.shape[-1])
        if rest.shape[-1]:
            yield rest
