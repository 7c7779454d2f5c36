"""Overlap-add: split a stream into overlapping chunks, and cross-fade their estimates.

Neighbouring chunks are cross-faded with a squared-sine ramp. The two weights add up to one, so
that a model which returns its input returns the complete track bit for bit. Only the current
chunks are in memory, whatever the length of the audio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


def check_overlap(overlap: float) -> None:
    """Raise ``ValueError`` unless each sample belongs to at most two chunks."""
    if not 0 <= overlap <= 0.5:
        raise ValueError(f"overlap is {overlap}: give a fraction of the chunk from 0 to 0.5")


def overlap_add(
    separate_chunks: Callable[[Tensor], Tensor],
    blocks: Iterable[Tensor],
    length: int,
    overlap: float,
    batch_size: int,
) -> Iterator[Tensor]:
    """Separate a stream chunk by chunk, with cross-fades between chunks.

    Args:
        separate_chunks: Maps chunks (B, C, length) to estimates (B, S, C, length), which are
            modified in place.
        blocks: Consecutive blocks of the mixture of any length, shape (C, n).
        length: Length of a chunk, samples.
        overlap: Fraction of a chunk shared with the next, in [0, 0.5].
        batch_size: Chunks per call of ``separate_chunks``.

    Yields:
        Consecutive parts of the estimates, shape (S, C, n), in total as long as the mixture.
    """
    shared = int(length * overlap)
    hop = length - shared
    # sin² rises from 0 to 1, and its complement is cos².
    fade_in = torch.sin(torch.linspace(0, math.pi / 2, shared + 2)[1:-1]) ** 2

    tail: Tensor | None = None  # end of the previous chunk, shared with the next
    received = emitted = 0
    for chunks, received in _batches(blocks, length, hop, batch_size):
        estimates = separate_chunks(chunks)
        fade_in = fade_in.to(estimates)
        for chunk in estimates:
            if tail is not None:
                # Cross-fade. lerp between equal values returns that value without rounding.
                chunk[..., :shared] = torch.lerp(tail, chunk[..., :shared], fade_in)
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
    """Cut blocks into batches of overlapping chunks; the last chunk is padded with zeros.

    Yields:
        Chunks, shape (b, C, length), and the number of samples received so far.
    """
    received = 0
    pending: Tensor | None = None  # received samples from the start of the next chunk on
    covered = 0  # leading samples of ``pending`` that an earlier chunk contains
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
