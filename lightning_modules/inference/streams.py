"""Streams of tensors: blocks with margins, temporary storage, running mean and median."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Separate = Callable[[Iterable[Tensor]], Iterator[Tensor]]
"""Maps consecutive blocks of a mixture (C, n) to consecutive parts of estimates (S, C, n)."""

# A bin of the median's histogram is an exponent and 12 bits of the mantissa: 0.002 dB wide.
_DROPPED_BITS = 11


class RunningMean:
    """Mean of numbers that arrive in blocks."""

    def __init__(self) -> None:
        self.sum: Tensor | float = 0.0
        self.count = 0

    def add(self, numbers: Tensor) -> None:
        """Add numbers (S, n)."""
        self.sum = self.sum + numbers.sum(-1, dtype=torch.float64)
        self.count += numbers.shape[-1]

    def value(self) -> Tensor:
        """The mean, shape (S,)."""
        return torch.as_tensor(self.sum / self.count).float()


class RunningMedian:
    """Lower median of non-negative numbers that arrive in blocks, from a histogram."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.count = 0

    def add(self, numbers: Tensor) -> None:
        """Add float32 numbers (S, n)."""
        # Non-negative floats sort in the order of their bit patterns.
        bins = numbers.contiguous().view(torch.int32).long() >> _DROPPED_BITS
        if self.counts is None:
            self.counts = bins.new_zeros(len(numbers), 2 ** (31 - _DROPPED_BITS))
        self.counts.scatter_add_(1, bins, torch.ones_like(bins))
        self.count += numbers.shape[-1]

    def value(self) -> Tensor:
        """The median, rounded down by at most 0.002 dB, shape (S,)."""
        assert self.counts is not None
        rank = (self.count + 1) // 2
        bins = (self.counts.cumsum(1) < rank).sum(1)
        return (bins << _DROPPED_BITS).int().view(torch.float32)


class StreamStore:
    """Parts of a stream, stored in a file to be read a second time.

    Args:
        file: The file, open for reading and writing.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.shapes: list[torch.Size] = []

    def write_through(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Store parts and pass them on."""
        for part in parts:
            if not part.numel():
                continue
            self.example = part[..., :0]
            self.shapes.append(part.shape)
            self.file.write(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
            yield part

    def read(self) -> Iterator[Tensor]:
        """Yield the stored parts."""
        self.file.seek(0)
        for shape in self.shapes:
            data = bytearray(self.file.read(shape.numel() * self.example.element_size()))
            part = torch.frombuffer(data, dtype=self.example.dtype).view(shape)
            yield part.to(self.example.device)


def blocks_with_margins(
    parts: Iterable[Tensor], length: int, margin: int
) -> Iterator[tuple[Tensor, int]]:
    """Cut a stream into blocks with their surroundings; zeros beyond both ends.

    Args:
        parts: Consecutive parts of the stream, shape (S, C, n).
        length: Length of a block, samples.
        margin: Samples before and after it.

    Yields:
        Block with margins, shape (S, C, margin + length + margin), and how many of its ``length``
        samples belong to the stream.
    """
    pending: Tensor | None = None
    remaining = 0
    for part in parts:
        if pending is None:
            pending = part.new_zeros(*part.shape[:-1], margin)
        pending = torch.cat([pending, part], -1)
        remaining += part.shape[-1]
        while pending.shape[-1] >= length + 2 * margin:
            yield pending[..., : length + 2 * margin], length
            pending = pending[..., length:]
            remaining -= length
    while pending is not None and remaining > 0:
        missing = length + 2 * margin - pending.shape[-1]
        pending = torch.nn.functional.pad(pending, (0, missing))
        yield pending, min(length, remaining)
        pending = pending[..., length:]
        remaining -= length
