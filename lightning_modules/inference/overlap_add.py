"""Overlap-add: split audio into overlapping chunks, separate them, cross-fade the estimates.

Neighbouring chunks are cross-faded with squared-sine weights, which add up to one: a model that
returns its input unchanged reproduces the track bit for bit. Memory use does not depend on the
length of the audio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


def check_overlap(overlap: float) -> None:
    """Raise ``ValueError`` unless the overlap is at most half a chunk, in [0, 0.5]."""
    if not 0 <= overlap <= 0.5:
        raise ValueError(f"overlap is {overlap}: must be a fraction of the chunk from 0 to 0.5")


def overlap_add(
    separate_chunks: Callable[[Tensor], Tensor],
    blocks: Iterable[Tensor],
    length: int,
    overlap: float,
    batch_size: int,
) -> Iterator[Tensor]:
    """Separate consecutive blocks chunk by chunk, with cross-fades between chunks.

    Args:
        separate_chunks: Function that maps chunks (B, C, length) to estimates (B, S, C, length).
            The estimates are then modified in place.
        blocks: Consecutive blocks of the mixture of any length, shape (C, n).
        length: Length of a chunk, samples.
        overlap: Fraction of a chunk that overlaps with the next one, in [0, 0.5].
        batch_size: Number of chunks per call of ``separate_chunks``.

    Yields:
        Consecutive parts of the estimates, shape (S, C, n). Their total length is the mixture's.
    """
    overlapping = int(length * overlap)  # samples
    hop = length - overlapping
    # Weights of the new chunk: sin². The previous chunk gets 1 - sin² = cos².
    fade_in = torch.sin(torch.linspace(0, math.pi / 2, overlapping + 2)[1:-1]) ** 2

    tail: Tensor | None = None  # end of the previous chunk, which overlaps with the next one
    received = emitted = 0
    for chunks, received in _batches(blocks, length, hop, batch_size):
        estimates = separate_chunks(chunks)
        fade_in = fade_in.to(estimates)
        for chunk in estimates:
            if tail is not None:
                # Cross-fade. For equal inputs, lerp returns exactly their value.
                chunk[..., :overlapping] = torch.lerp(tail, chunk[..., :overlapping], fade_in)
            # A copy, since a view would keep the whole batch in memory.
            tail = chunk[..., hop:].clone()
            part = chunk[..., : min(hop, received - emitted)]
            emitted += part.shape[-1]
            yield part
    if tail is not None and emitted < received:
        yield tail[..., : received - emitted]


def _batches(
    blocks: Iterable[Tensor], length: int, hop: int, batch_size: int
) -> Iterator[tuple[Tensor, int]]:
    """Collect blocks and cut them into batches of overlapping chunks.

    The last chunk is padded with zeros.

    Yields:
        Chunks, shape (b, C, length), and the number of samples received so far.
    """
    received = 0
    pending: Tensor | None = None  # received samples, from the start of the next chunk on
    covered = 0  # samples at the start of ``pending`` that the previous chunk contains too
    for block in blocks:
        received += block.shape[-1]
        pending = block if pending is None else torch.cat([pending, block], -1)
        while pending.shape[-1] >= length + (batch_size - 1) * hop:
            yield _chunks(pending, length, hop, batch_size), received
            pending, covered = pending[..., batch_size * hop :], length - hop
    if pending is None or pending.shape[-1] <= covered:
        return
    count = 1 + max(0, math.ceil((pending.shape[-1] - length) / hop))
    padded = torch.nn.functional.pad(pending, (0, length + (count - 1) * hop - pending.shape[-1]))
    for first in range(0, count, batch_size):
        number = min(batch_size, count - first)
        yield _chunks(padded[..., first * hop :], length, hop, number), received


def _chunks(waveform: Tensor, length: int, hop: int, number: int) -> Tensor:
    """Return the first ``number`` chunks of a waveform (C, T) as (number, C, length)."""
    span = length + (number - 1) * hop
    return waveform[..., :span].unfold(-1, length, hop).transpose(0, 1)
