"""Shift trick: average the estimates of delayed, or circularly shifted, mixtures.

Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the Waveform Domain":
randomised equivariant stabilisation. A model with strides is not time-equivariant; the mean over
several random delays is closer to it, at as many times the cost. Delays also move the borders of
chunks, so that errors there average out.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_modules.inference.streams import Separate, StreamStore, aligned


def check_shifts(shifts: int, circular_shifts: int = 0) -> None:
    """Raise ``ValueError`` if a number of shifts is negative."""
    for name, number in (("shifts", shifts), ("circular_shifts", circular_shifts)):
        if number < 0:
            raise ValueError(f"{name} is {number}: give 0 (no shifts) or a positive number")


def draw_delays(shifts: int, sample_rate: int, seed: int) -> list[int]:
    """Draw random delays, samples, from 0 to half a second as in the paper."""
    longest = round(0.5 * sample_rate)
    generator = torch.Generator().manual_seed(seed)
    delays: list[int] = torch.randint(longest + 1, (shifts,), generator=generator).tolist()
    return delays


def average_over_delays(
    separate: Separate, blocks: Iterable[Tensor], delays: list[int]
) -> Iterator[Tensor]:
    """Separate the mixture once per delay, in parallel streams, and average the estimates.

    Args:
        separate: The separation.
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
    for parts in aligned(streams):
        mean = parts[0]
        for number, part in enumerate(parts[1:], 2):
            # lerp between equal values returns that value without rounding.
            mean = torch.lerp(mean, part, 1 / number)
        yield mean


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


# Samples of the averaged estimates that are yielded at a time.
_PART_SAMPLES = 2**18


def average_over_circular_shifts(
    separate: Separate, blocks: Iterable[Tensor], number: int
) -> Iterator[Tensor]:
    """Average over mixtures that start at equally spaced positions and end before them.

    Mixture and estimates are stored in temporary files.

    Args:
        separate: The separation.
        blocks: Consecutive blocks of the mixture, shape (C, n).
        number: Number of shifts, by multiples of the length divided by the number, rounded down.

    Yields:
        Consecutive parts of the mean, shape (S, C, n), in total as long as the mixture.
    """
    with tempfile.TemporaryFile() as mixture_file, tempfile.TemporaryFile() as mean_file:
        store = StreamStore(mixture_file)
        samples = sum(block.shape[-1] for block in store.write_through(blocks))
        mean: Tensor | None = None
        for count in range(number):
            position = start = count * (samples // number)
            for part in separate(_rotated(store, start)):
                if mean is None:
                    shape = (*part.shape[:-1], samples)
                    mean = torch.from_numpy(np.memmap(mean_file, np.float32, "w+", shape=shape))
                for piece in part.split(_lengths_until_wrap(part.shape[-1], position, samples), -1):
                    place = mean[..., position : position + piece.shape[-1]]
                    place.lerp_(piece.to(place), 1 / (count + 1))
                    position = (position + piece.shape[-1]) % samples
        if mean is not None:
            device, dtype = store.example.device, store.example.dtype
            for first in range(0, samples, _PART_SAMPLES):
                yield mean[..., first : first + _PART_SAMPLES].to(device, dtype, copy=True)


def _lengths_until_wrap(length: int, position: int, samples: int) -> list[int]:
    """Divide a length at the end of a circular buffer."""
    first = min(length, samples - position)
    return [first, length - first] if first < length else [first]


def _rotated(store: StreamStore, start: int) -> Iterator[Tensor]:
    """Yield a stored stream from a position to its end, then its beginning."""
    position = 0
    for block in store.read():
        if (rest := block[..., max(0, start - position) :]).shape[-1]:
            yield rest
        position += block.shape[-1]
    position = 0
    for block in store.read():
        if (begin := block[..., : max(0, start - position)]).shape[-1]:
            yield begin
        position += block.shape[-1]
