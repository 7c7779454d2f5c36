"""Streams of tensors: alignment, blocks with margins, spectra, storage, running mean and median."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Parts of a stream, stored in a file to be read again.

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
            self.file.seek(0, os.SEEK_END)
            self.file.write(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
            yield part

    def read(self, remaining: Iterator[Tensor] | None = None) -> Iterator[Tensor]:
        """Yield the stored parts.

        Args:
            remaining: What ``write_through`` returned, if more parts are to be stored when the
                stored ones have been read. Several readers may share it.
        """
        position = number = 0
        while number < len(self.shapes) or (remaining and next(remaining, None) is not None):
            shape = self.shapes[number]
            self.file.seek(position)
            data = bytearray(self.file.read(shape.numel() * self.example.element_size()))
            number, position = number + 1, position + len(data)
            part = torch.frombuffer(data, dtype=self.example.dtype).view(shape)
            yield part.to(self.example.device)


def aligned(streams: Sequence[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    """Cut streams of the same total length at the same places.

    Args:
        streams: At least one, each of consecutive non-empty parts (..., n).

    Yields:
        A part of each stream, all with the same number of samples.
    """
    parts = [next(stream, None) for stream in streams]
    while True:
        pending = [part for part in parts if part is not None]
        if len(pending) < len(parts):
            return
        samples = min(part.shape[-1] for part in pending)
        yield [part[..., :samples] for part in pending]
        parts = [
            part[..., samples:] if part.shape[-1] > samples else next(stream, None)
            for part, stream in zip(pending, streams, strict=True)
        ]


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


def change_spectrum(
    block: Tensor, change: Callable[[Tensor], Tensor], n_fft: int, hop: int
) -> Tensor:
    """Change the short-time spectrum of a block of a stream.

    The frames are those of the complete stream, with zeros beyond both ends, if the block starts
    at a multiple of ``hop`` samples.

    Args:
        block: Waveforms with margins of ``n_fft`` samples, shape (S, C, n_fft + n + n_fft).
        change: Maps spectra (S, C, F, N) to others, of any number of sources.
        n_fft: Size of the transform and of the Hann window, samples.
        hop: Distance of frames, samples; a divisor of ``n_fft / 2``.

    Returns:
        Waveforms without the margins, shape (S, C, n).
    """
    window = torch.hann_window(n_fft, device=block.device)
    flat = block.float().flatten(0, 1)
    spectrum = torch.stft(flat, n_fft, hop, window=window, center=False, return_complex=True)
    changed = change(spectrum.unflatten(0, block.shape[:2]))
    waveforms = torch.istft(
        changed.flatten(0, 1),
        n_fft,
        hop,
        window=window,
        center=True,  # drops half a window at each end
        length=block.shape[-1] - n_fft,
    )
    edge = n_fft // 2
    trimmed: Tensor = waveforms.unflatten(0, changed.shape[:2])[..., edge:-edge]
    return trimmed
