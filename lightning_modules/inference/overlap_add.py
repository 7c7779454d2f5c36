"""Overlap-add: split audio into overlapping chunks, separate them, average the estimates.

Where chunks overlap, estimates are averaged with the weights of a window. The average is updated
chunk by chunk, as a running mean: a model that returns its input unchanged reproduces the track
bit for bit, with any window. Memory use does not depend on the length of the audio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from lightning_modules.inference.options import Edges, Window


class OverlapAdd(NamedTuple):
    """How chunks are cut and their estimates averaged.

    Attributes:
        length: Length of a chunk, samples.
        overlap: Fraction of a chunk that overlaps with the next one, in [0, 1).
        window: Weights within a chunk; see ``window_weights``.
        edges: What completes chunks at the ends of the audio. ``zeros``: silence. ``reflect``: the
            audio is extended by its reflection at both ends, so that as many chunks cover its
            first and last samples as any other (MSST). ``context``: a chunk that would exceed the
            end is taken with samples before it, of which only the estimates that are needed are
            used (Demucs).
        batch_size: Number of chunks per call of the model.
    """

    length: int
    overlap: float = 0.25
    window: Window = "crossfade"
    edges: Edges = "zeros"
    batch_size: int = 1

    @property
    def hop(self) -> int:
        """Samples between the starts of two chunks."""
        # An overlap such as (length - hop) / length is not exact in floating point.
        return max(1, math.floor(self.length * (1 - self.overlap) + 1e-6))


class _Chunk(NamedTuple):
    """A chunk, and the part of its estimates that is used."""

    audio: Tensor  # (C, length)
    first: int
    samples: int


def check_overlap(overlap: float, window: str = "crossfade", edges: str = "zeros") -> None:
    """Raise ``ValueError`` if a setting of the overlap-add is invalid."""
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}: give a fraction of the chunk, from 0 to below 1")
    for name, value, known in (("overlap_window", window, Window), ("edges", edges, Edges)):
        if value not in get_args(known):
            raise ValueError(f"{name} is {value!r}: give one of {', '.join(get_args(known))}")


def window_weights(window: Window, length: int, overlapping: int) -> Tensor:
    """Return the weights of a chunk's samples, float32, shape (length,).

    Args:
        window: ``crossfade``: constant, with squared-sine ramps as long as the overlap, at most
            half the chunk; ``hann``: squared sine; ``triangle``: linear up to the middle (Demucs);
            ``ramps``: constant, with linear ramps from zero over a tenth of the chunk (MSST);
            ``mean``: constant.
        length: Length of a chunk, samples.
        overlapping: Samples that overlap with the next chunk.
    """
    if window == "hann":
        return torch.sin(math.pi * (torch.arange(length) + 0.5) / length) ** 2
    if window == "triangle":
        rising = torch.arange(1, length // 2 + 1)
        falling = torch.arange(length - length // 2, 0, -1)
        return torch.cat([rising, falling]) / falling[0]
    weights = torch.ones(length)
    ramp = torch.ones(0)
    if window == "crossfade":
        ramp_samples = min(overlapping, length // 2)
        ramp = torch.sin(torch.linspace(0, math.pi / 2, ramp_samples + 2)[1:-1]) ** 2
    elif window == "ramps":
        ramp = torch.linspace(0, 1, length // 10)
    weights[: len(ramp)] = ramp
    weights[length - len(ramp) :] = ramp.flip(0) if window == "ramps" else 1 - ramp
    return weights


def overlap_add(
    separate_chunks: Callable[[Tensor], Tensor], blocks: Iterable[Tensor], settings: OverlapAdd
) -> Iterator[Tensor]:
    """Separate consecutive blocks chunk by chunk and average the estimates where chunks overlap.

    Args:
        separate_chunks: Function that maps chunks (B, C, length) to estimates (B, S, C, length).
            The estimates are then modified in place.
        blocks: Consecutive blocks of the mixture of any length, shape (C, n).
        settings: How chunks are cut and averaged.

    Yields:
        Consecutive parts of the estimates, shape (S, C, n). Their total length is the mixture's.
    """
    border = settings.length - settings.hop
    if settings.edges != "reflect" or not border:
        yield from _averaged(separate_chunks, blocks, settings)
        return
    reflected = _Reflected(blocks, border)
    parts = _averaged(separate_chunks, reflected, settings)
    skipped = emitted = 0
    for part in parts:
        # Known once the first block of the extended audio has been read.
        skip = min(part.shape[-1], reflected.added - skipped)
        skipped += skip
        kept = part[..., skip:][..., : reflected.received - emitted]
        emitted += kept.shape[-1]
        if kept.shape[-1]:
            yield kept


def _averaged(
    separate_chunks: Callable[[Tensor], Tensor], blocks: Iterable[Tensor], settings: OverlapAdd
) -> Iterator[Tensor]:
    hop = settings.hop
    window = window_weights(settings.window, settings.length, settings.length - hop)
    mean: Tensor | None = None  # of earlier chunks, from the start of the next chunk on
    total = window[:0]  # their weights
    for chunks in _batched(_chunks(blocks, settings), settings.batch_size):
        estimates = separate_chunks(torch.stack([chunk.audio for chunk in chunks]))
        window = window.to(estimates.device)
        for chunk, estimate in zip(chunks, estimates, strict=True):
            part = estimate[..., chunk.first : chunk.first + chunk.samples]
            weights = window[: chunk.samples].clone()
            if mean is not None and (covered := mean.shape[-1]):
                share = weights[:covered] / (weights[:covered] + total)
                # Where both weights are zero, the new estimate counts.
                share = share.nan_to_num(nan=1.0).to(part.dtype)
                # For equal inputs, lerp returns exactly their value.
                part[..., :covered] = torch.lerp(mean, part[..., :covered], share)
                weights[:covered] += total
            # Copies, since views would keep the whole batch in memory.
            mean, total = part[..., hop:].clone(), weights[hop:]
            yield part[..., :hop]
    if mean is not None and mean.shape[-1]:
        yield mean


def _batched(chunks: Iterable[_Chunk], size: int) -> Iterator[list[_Chunk]]:
    batch: list[_Chunk] = []
    for chunk in chunks:
        batch.append(chunk)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _chunks(blocks: Iterable[Tensor], settings: OverlapAdd) -> Iterator[_Chunk]:
    """Cut a stream into chunks; the last ones are completed as ``settings.edges`` says."""
    length, hop = settings.length, settings.hop
    pending: Tensor | None = None  # received samples, from the start of the next chunk on
    before: Tensor | None = None  # samples before them, only for ``context``
    covered = 0  # samples at the start of ``pending`` that the previous chunk contains too
    for block in blocks:
        pending = block if pending is None else torch.cat([pending, block], -1)
        if before is None:
            before = pending[..., :0]
        while pending.shape[-1] >= length:
            yield _Chunk(pending[..., :length], 0, length)
            before = _kept(before, pending[..., :hop], settings)
            pending, covered = pending[..., hop:], length - hop
    if pending is None or before is None:
        return
    # With zeros, a chunk that adds no samples would only cost time; but MSST takes it for Demucs,
    # whose chunks all weigh the same.
    skipped = settings.edges == "zeros" and settings.window != "mean"
    while pending.shape[-1] > (covered if skipped else 0):
        samples = min(length, pending.shape[-1])
        yield _completed(pending[..., :samples], before, settings)
        before = _kept(before, pending[..., :hop], settings)
        pending, covered = pending[..., hop:], length - hop


def _kept(before: Tensor, passed: Tensor, settings: OverlapAdd) -> Tensor:
    """Return the last samples before a chunk, which only ``context`` needs."""
    if settings.edges != "context":
        return before
    return torch.cat([before, passed], -1)[..., -settings.length :]


def _completed(part: Tensor, before: Tensor, settings: OverlapAdd) -> _Chunk:
    """Complete a part (C, n) that is shorter than a chunk."""
    samples, missing = part.shape[-1], settings.length - part.shape[-1]
    if settings.edges == "context":
        # The part is in the middle of the chunk; zeros come after the end, or before the start.
        left = missing // 2
        context = before[..., max(0, before.shape[-1] - left) :] if left else before[..., :0]
        silence = (left - context.shape[-1], missing - left)
        joined = torch.nn.functional.pad(torch.cat([context, part], -1), silence)
        return _Chunk(joined, left, samples)
    # A reflection needs more samples than it adds.
    mode = "reflect" if settings.edges == "reflect" and missing < samples else "constant"
    return _Chunk(torch.nn.functional.pad(part, (0, missing), mode=mode), 0, samples)


class _Reflected:
    """Consecutive blocks (C, n), extended at both ends by the reflected signal.

    Attributes:
        added: Samples added at each end: ``border``, or 0 if the signal is too short for both.
        received: Samples of the signal that have been read.
    """

    def __init__(self, blocks: Iterable[Tensor], border: int) -> None:
        self.blocks, self.border = blocks, border
        self.added = self.received = 0

    def __iter__(self) -> Iterator[Tensor]:
        start: Tensor | None = None  # the first samples, until their reflection is known
        end: Tensor | None = None  # the last samples
        for block in self.blocks:
            self.received += block.shape[-1]
            if self.added:
                end = torch.cat([end, block], -1) if end is not None else block
                end = end[..., -self.border - 1 :]
                yield block
                continue
            start = block if start is None else torch.cat([start, block], -1)
            if start.shape[-1] > 2 * self.border:
                self.added = self.border
                end = start[..., -self.border - 1 :]
                yield start[..., 1 : self.border + 1].flip(-1)
                yield start
        if self.added:
            assert end is not None
            yield end[..., :-1].flip(-1)[..., : self.border]
        elif start is not None:
            yield start
