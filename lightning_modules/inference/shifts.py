"""Randomised equivariant stabilisation: estimates averaged over random delays of the mixture.

The shift trick of Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the
Waveform Domain". A model with strides does not answer a delay by the same delay; the mean over
several random ones comes nearer to that. It costs as many times the separation. A delay moves
the borders of chunks along, so that these average out, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Delays are up to half a second, as the authors'.
_LONGEST_SECONDS = 0.5


def check_shifts(shifts: int) -> None:
    """Check a number of shifts.

    Args:
        shifts: Number of delays to average over, or 0.

    Raises:
        ValueError: It is below 0.
    """
    if shifts < 0:
        raise ValueError(f"shifts is {shifts}: give 0, which leaves the mixture as it is, or more")


def draw_delays(shifts: int, sample_rate: int, seed: int) -> list[int]:
    """Draw random delays from 0 to half a second.

    Args:
        shifts: How many.
        sample_rate: Hz.
        seed: The same one gives the same delays.

    Returns:
        Delays, samples.
    """
    longest = round(_LONGEST_SECONDS * sample_rate)
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(longest + 1, (shifts,), generator=generator).tolist()
    return drawn


def averaged(
    separated: Callable[[Iterable[Tensor]], Iterator[Tensor]],
    blocks: Iterable[Tensor],
    delays: list[int],
) -> Iterator[Tensor]:
    """Separate a delayed mixture for each delay, side by side, and average the estimates.

    Args:
        separated: Maps consecutive blocks of a mixture (C, n) to pieces of estimates (S, C, n).
        blocks: Consecutive blocks of the mixture.
        delays: Delays, samples, at least one.

    Yields:
        Consecutive pieces of the mean, shape (S, C, n), together as long as the mixture.
    """
    copies = itertools.tee(blocks, len(delays))
    streams = [
        _undone(separated(_delayed(copy, delay)), delay)
        for copy, delay in zip(copies, delays, strict=True)
    ]
    pieces = [next(stream, None) for stream in streams]
    while True:
        waiting = [piece for piece in pieces if piece is not None]
        if len(waiting) < len(pieces):
            return  # they are all as long as the mixture, and end together
        samples = min(piece.shape[-1] for piece in waiting)
        mean = waiting[0][..., :samples]
        for number, piece in enumerate(waiting[1:], 2):
            # Equal estimates have that very mean: lerp adds no rounding to them.
            mean = torch.lerp(mean, piece[..., :samples], 1 / number)
        yield mean
        pieces = [
            piece[..., samples:] if piece.shape[-1] > samples else next(stream, None)
            for piece, stream in zip(waiting, streams, strict=True)
        ]


def _delayed(blocks: Iterable[Tensor], delay: int) -> Iterator[Tensor]:
    for number, block in enumerate(blocks):
        yield block if number else torch.nn.functional.pad(block, (delay, 0))


def _undone(pieces: Iterable[Tensor], delay: int) -> Iterator[Tensor]:
    """Leave out the first samples, and pieces without any."""
    for piece in pieces:
        left = piece[..., delay:]
        delay = max(0, delay - piece.shape[-1])
        if left.shape[-1]:
            yield left
