"""Separation of audio of any length: the one inference path of all models.

The mixture is cut into chunks as long as a training segment that overlap by a
part of their length. The model separates them a few at a time, and neighbours
are cross-faded with a squared-sine ramp: the two weights add up to one, so a
model that returns its input returns the whole track, to the bit. Only the
chunks at hand are in memory, however long the audio is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
import torchaudio
from scipy.signal import resample_poly
from torch import Tensor

from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor
from lightning_modules.inference.shifts import averaged, check_shifts, draw_delays


class Separator(Protocol):
    """What ``separate`` needs to know of a model."""

    sources: list[str]
    sample_rate: int
    audio_channels: int
    segment_seconds: float

    def __call__(self, mixture: Tensor) -> Tensor:
        """Map mixtures (B, C, T) to estimates (B, S, C, T)."""
        ...


def separate(
    model: Separator,
    mixture: Tensor,
    sample_rate: int | None = None,
    *,
    overlap: float = 0.25,
    batch_size: int = 4,
    shifts: int = 0,
    seed: int = 0,
    postprocessing: PostProcessing | None = None,
) -> Tensor:
    """Separate a mixture that fits into memory.

    Args:
        model: The separator; its mode and device are the caller's choice.
        mixture: Waveform, shape (C, T), on the model's device.
        sample_rate: Rate of the mixture, Hz; by default the model's.
        overlap: Part of a chunk that it shares with the next, in [0, 0.5].
        batch_size: Chunks that go through the model at once.
        shifts: Random delays of the mixture to average over; 0 separates it as it is.
        seed: The same one gives the same delays.
        postprocessing: What is done to the estimates; by default nothing.

    Returns:
        Estimates at the mixture's rate, shape (S, C, T), ordered as ``model.sources``.

    Raises:
        ValueError: The mixture's shape, the overlap or the shifts are not as described.
    """
    if mixture.ndim != 2:
        raise ValueError(f"mixture has shape {tuple(mixture.shape)}: (channels, samples) expected")
    parts = separate_stream(
        model,
        [mixture],
        sample_rate,
        overlap=overlap,
        batch_size=batch_size,
        shifts=shifts,
        seed=seed,
        postprocessing=postprocessing,
    )
    estimates = mixture.new_empty(len(model.sources), *mixture.shape)
    position = 0
    for part in parts:
        estimates[..., position : position + part.shape[-1]] = part
        position += part.shape[-1]
    return estimates


@torch.no_grad()
def separate_stream(
    model: Separator,
    blocks: Iterable[Tensor],
    sample_rate: int | None = None,
    *,
    overlap: float = 0.25,
    batch_size: int = 4,
    shifts: int = 0,
    seed: int = 0,
    postprocessing: PostProcessing | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> Iterator[Tensor]:
    """Separate a mixture that comes, and goes, piece by piece.

    Args:
        model: The separator; its mode and device are the caller's choice.
        blocks: Consecutive pieces of the mixture of any length, shape (C, n).
        sample_rate: Rate of the mixture, Hz; by default the model's.
        overlap: Part of a chunk that it shares with the next, in [0, 0.5].
        batch_size: Chunks that go through the model at once.
        shifts: Random delays of the mixture to average over; 0 separates it as it is.
        seed: The same one gives the same delays.
        postprocessing: What is done to the estimates; by default nothing. Muting gives
            nothing back before all has come.
        progress: Told the number of samples that have just been separated.

    Yields:
        Consecutive pieces of the estimates, shape (S, C, n), together as long
        as the mixture.

    Raises:
        ValueError: The overlap is outside [0, 0.5], the shifts are below 0, or a setting of the
            post-processing is wrong.
    """
    check_overlap(overlap)
    check_shifts(shifts)
    rate = sample_rate or model.sample_rate
    delays = draw_delays(shifts, rate, seed)
    process = PostProcessor(postprocessing or {}, model.sources, rate)

    def joined(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        return _joined_chunks(model, blocks, rate, overlap, batch_size)

    def separated() -> Iterator[Tensor]:
        for part in averaged(joined, blocks, delays) if delays else joined(blocks):
            progress(part.shape[-1])
            yield part

    yield from process(separated())


def _joined_chunks(
    model: Separator, blocks: Iterable[Tensor], rate: int, overlap: float, batch_size: int
) -> Iterator[Tensor]:
    """Separate chunk by chunk, and cross-fade neighbours."""
    length = max(2, round(model.segment_seconds * rate))
    shared = int(length * overlap)
    hop = length - shared
    # sin² rises from 0 to 1; its fall, cos², makes the sum of the two one.
    ramp = torch.sin(torch.linspace(0, math.pi / 2, shared + 2)[1:-1]) ** 2

    tail: Tensor | None = None  # what the last chunk says of the samples shared with the next
    received = emitted = 0
    for chunks, received in _batches(blocks, length, hop, batch_size):
        estimates = apply(model, chunks, rate)
        ramp = ramp.to(estimates)
        for chunk in estimates:
            if tail is not None:
                # lerp of equal values is that very value: the cross-fade adds no rounding.
                chunk[..., :shared] = torch.lerp(tail, chunk[..., :shared], ramp)
            # A copy: the view would keep the whole batch of chunks alive.
            tail = chunk[..., hop:].clone()
            part = chunk[..., : min(hop, received - emitted)]
            emitted += part.shape[-1]
            yield part
    if tail is not None and emitted < received:
        yield tail[..., : received - emitted]


def apply(model: Separator, chunks: Tensor, rate: int) -> Tensor:
    """Run the model on chunks of any rate and number of channels.

    Args:
        model: The separator.
        chunks: Waveforms, shape (B, C, T).
        rate: Their sample rate, Hz.

    Returns:
        Estimates, shape (B, S, C, T).
    """
    batch, channels, length = chunks.shape
    inputs = chunks.contiguous()  # the chunks overlap in memory
    if rate != model.sample_rate:
        # Edges of a resampled chunk ring a little; the cross-fade weighs them near zero.
        inputs = _resample(inputs, rate, model.sample_rate)
    if channels != model.audio_channels:
        if model.audio_channels == 1:
            inputs = inputs.reshape(batch * channels, 1, -1)  # (B, C, T) -> (B C, 1, T)
        elif channels == 1:
            inputs = inputs.expand(-1, model.audio_channels, -1)
        else:
            raise ValueError(
                f"the audio has {channels} channels, the model separates {model.audio_channels}: "
                "mix it down first"
            )
    estimates = model(inputs).contiguous()
    if channels != model.audio_channels:
        if model.audio_channels == 1:
            # (B C, S, 1, T) -> (B, S, C, T)
            estimates = estimates.reshape(batch, channels, -1, estimates.shape[-1]).transpose(1, 2)
        else:
            estimates = estimates.mean(-2, keepdim=True)
    if rate != model.sample_rate:
        estimates = _resample(estimates, model.sample_rate, rate)
        estimates = estimates[..., :length]
        estimates = torch.nn.functional.pad(estimates, (0, length - estimates.shape[-1]))
    # The cross-fade writes into it, and an identity model hands back its input.
    return estimates.clone()


def check_overlap(overlap: float) -> None:
    """Check that a sample lies in no more than two chunks.

    Args:
        overlap: Part of a chunk that it shares with the next.

    Raises:
        ValueError: It is outside [0, 0.5].
    """
    if not 0 <= overlap <= 0.5:
        raise ValueError(f"overlap is {overlap}: give a part of the chunk from 0 to 0.5")


def _batches(
    blocks: Iterable[Tensor], length: int, hop: int, batch_size: int
) -> Iterator[tuple[Tensor, int]]:
    """Cut blocks into batches of overlapping chunks, the last one padded with zeros.

    Yields:
        Chunks, shape (b, C, length), and the number of samples received so far.
    """
    received = 0
    waiting: Tensor | None = None  # received samples from the start of the next chunk on
    covered = 0  # samples from that start on that an earlier chunk already holds
    for block in blocks:
        received += block.shape[-1]
        waiting = block if waiting is None else torch.cat([waiting, block], -1)
        while waiting.shape[-1] >= length + (batch_size - 1) * hop:
            yield _chunks(waiting, length, hop, batch_size), received
            waiting, covered = waiting[..., batch_size * hop :], length - hop
    if waiting is None:
        return
    if waiting.shape[-1] <= covered:
        return
    # One chunk, and as many more as it takes to hold every sample.
    count = 1 + max(0, math.ceil((waiting.shape[-1] - length) / hop))
    padded = torch.nn.functional.pad(waiting, (0, length + (count - 1) * hop - waiting.shape[-1]))
    for first in range(0, count, batch_size):
        number = min(batch_size, count - first)
        yield _chunks(padded[..., first * hop :], length, hop, number), received


def _chunks(waveform: Tensor, length: int, hop: int, number: int) -> Tensor:
    """The first ``number`` chunks of a waveform (C, T), as (number, C, length)."""
    span = length + (number - 1) * hop
    return waveform[..., :span].unfold(-1, length, hop).transpose(0, 1)


def _resample(waveform: Tensor, old: int, new: int) -> Tensor:
    """Resample waveforms (..., T) from one rate to another, Hz."""
    if max(old, new) / math.gcd(old, new) <= 2000:
        resampled: Tensor = torchaudio.functional.resample(waveform, old, new)
        return resampled
    # torchaudio makes a filter for each phase: gigabytes between rates such as 44,100 and 44,056.
    factor = math.gcd(old, new)
    audio = resample_poly(waveform.cpu().numpy(), new // factor, old // factor, axis=-1)
    return torch.from_numpy(audio).to(waveform)
