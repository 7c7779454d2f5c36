"""Separation of audio of any length, rate and number of channels: one path for all models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import soxr
import torch
import torchaudio
from torch import Tensor

from datamodules.errors import DataError
from lightning_modules.inference.overlap_add import check_overlap, overlap_add
from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor
from lightning_modules.inference.shifts import average_over_delays, check_shifts, draw_delays

# torchaudio builds one filter per phase: gigabytes between rates such as 44,100 and 44,056 Hz.
_MOST_PHASES = 2000


class Separator(Protocol):
    """Interface that ``separate`` needs of a model."""

    sources: list[str]
    sample_rate: int
    audio_channels: int
    segment_seconds: float

    def __call__(self, mixture: Tensor) -> Tensor:
        """Map mixtures (B, C, T) to estimates (B, S, C, T)."""
        ...


def separate(
    model: Separator, mixture: Tensor, sample_rate: int | None = None, **settings: Any
) -> Tensor:
    """Separate a mixture that fits into memory.

    Args:
        model: The separator; its mode and device stay as they are.
        mixture: Waveform, shape (C, T), on the model's device.
        sample_rate: Rate of the mixture, Hz; by default the model's.
        **settings: Keyword arguments of ``separate_stream``.

    Returns:
        Estimates at the mixture's rate, shape (S, C, T), ordered as ``model.sources``.

    Raises:
        ValueError: The mixture's shape or a setting is invalid.
    """
    if mixture.ndim != 2:
        raise ValueError(f"mixture has shape {tuple(mixture.shape)}: (channels, samples) expected")
    estimates = mixture.new_empty(len(model.sources), *mixture.shape)
    position = 0
    for part in separate_stream(model, [mixture], sample_rate, **settings):
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
    """Separate a mixture block by block.

    Args:
        model: The separator; its mode and device stay as they are.
        blocks: Consecutive blocks of the mixture of any length, shape (C, n).
        sample_rate: Rate of the mixture, Hz; by default the model's.
        overlap: Fraction of a chunk shared with the next, in [0, 0.5].
        batch_size: Chunks per forward pass.
        shifts: Number of random delays to average over; 0 separates the mixture once, undelayed.
        seed: Seed of the delays.
        postprocessing: Post-processing of the estimates; by default none. With muting, nothing
            is yielded before all blocks have been read.
        progress: Called with the number of samples just separated.

    Yields:
        Consecutive parts of the estimates, shape (S, C, n), in total as long as the mixture.

    Raises:
        ValueError: The overlap, the shifts or a setting of the post-processing is invalid.
    """
    check_overlap(overlap)
    check_shifts(shifts)
    rate = sample_rate or model.sample_rate
    process = PostProcessor(postprocessing or {}, model.sources, rate)
    separated = partial(
        overlap_add,
        lambda chunks: apply(model, chunks, rate),
        length=max(2, round(model.segment_seconds * rate)),
        overlap=overlap,
        batch_size=batch_size,
    )
    delays = draw_delays(shifts, rate, seed)

    def estimates() -> Iterator[Tensor]:
        for part in average_over_delays(separated, blocks, delays) if delays else separated(blocks):
            progress(part.shape[-1])
            yield part

    yield from process(estimates())


def check_channels(model: Separator, channels: int) -> None:
    """Raise ``DataError`` unless the model separates audio with this number of channels.

    It does if the audio has as many as the model, or one of them is mono.
    """
    if channels != model.audio_channels and 1 not in (channels, model.audio_channels):
        raise DataError(
            f"the audio has {channels} channels, the model separates {model.audio_channels}; mix "
            f"it down first, for instance by: ffmpeg -i OLD -ac {model.audio_channels} NEW.wav"
        )


def apply(model: Separator, chunks: Tensor, rate: int) -> Tensor:
    """Run the model on chunks of any rate and number of channels.

    Args:
        model: The separator.
        chunks: Waveforms, shape (B, C, T).
        rate: Their sample rate, Hz.

    Returns:
        Estimates in new memory, shape (B, S, C, T).

    Raises:
        ValueError: Neither the audio nor the model is mono, and their channels differ.
    """
    batch, channels, length = chunks.shape
    check_channels(model, channels)
    inputs = chunks.contiguous()  # the chunks overlap in memory
    if rate != model.sample_rate:
        # A resampled chunk rings at its edges, where the cross-fade weights it near zero.
        inputs = _resample(inputs, rate, model.sample_rate)
    if channels != model.audio_channels:
        if model.audio_channels == 1:
            inputs = inputs.reshape(batch * channels, 1, -1)  # (B, C, T) -> (B C, 1, T)
        else:
            inputs = inputs.expand(-1, model.audio_channels, -1)
    estimates = model(inputs).contiguous()
    if channels != model.audio_channels:
        if model.audio_channels == 1:
            # (B C, S, 1, T) -> (B, S, C, T)
            estimates = estimates.reshape(batch, channels, -1, estimates.shape[-1]).transpose(1, 2)
        else:
            estimates = estimates.mean(-2, keepdim=True)
    if rate != model.sample_rate:
        estimates = _resample(estimates, model.sample_rate, rate)[..., :length]
        estimates = torch.nn.functional.pad(estimates, (0, length - estimates.shape[-1]))
    # The cross-fade writes into it, and an identity model returns its input.
    return estimates.clone()


def _resample(waveform: Tensor, old: int, new: int) -> Tensor:
    """Resample waveforms (..., T) from one rate to another, Hz."""
    if max(old, new) / math.gcd(old, new) <= _MOST_PHASES:
        resampled: Tensor = torchaudio.functional.resample(waveform, old, new)
        return resampled
    frames = waveform.reshape(-1, waveform.shape[-1]).T.float().cpu().numpy()
    audio = torch.from_numpy(soxr.resample(frames, old, new).T)  # (n, T)
    return audio.to(waveform).reshape(*waveform.shape[:-1], -1)
