"""Separation of audio of any length, rate and number of channels: one path for all models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import soxr
import torch
import torchaudio
from torch import Tensor

from datamodules.errors import DataError
from lightning_modules.inference.options import Edges
from lightning_modules.inference.options import Window as OverlapWindow
from lightning_modules.inference.overlap_add import OverlapAdd, check_overlap, overlap_add
from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor
from lightning_modules.inference.shifts import (
    average_over_circular_shifts,
    average_over_delays,
    check_shifts,
    draw_delays,
)
from lightning_modules.inference.streams import Separate
from lightning_modules.inference.variants import average_over_variants, normalised

# torchaudio builds one filter per phase: gigabytes between rates such as 44,100 and 44,056 Hz.
_MOST_PHASES = 2000
# Shortest and longest chunk.
_CHUNK_SECONDS = 0.01, 600


class Separator(Protocol):
    """Interface that ``separate`` needs of a model."""

    sources: list[str]
    sample_rate: int
    audio_channels: int
    segment_seconds: float

    def __call__(self, mixture: Tensor) -> Tensor:
        """Map mixtures (B, C, T) to estimates (B, S, C, T)."""
        ...


@dataclass(frozen=True)
class SeparationSettings:
    """Settings of separation.

    Attributes:
        overlap: Fraction of a chunk that overlaps with the next one, in [0, 1).
        overlap_window: Weights with which estimates of overlapping chunks are averaged; see
            ``overlap_add.window_weights``.
        edges: What completes chunks at the ends of the audio; see ``overlap_add.OverlapAdd``.
        batch_size: Chunks per forward pass.
        chunk_seconds: Length of a chunk, seconds; by default the model's ``segment_seconds``.
        shifts: Number of random delays to average over (Demucs); 0 separates the mixture once.
        circular_shifts: Number of circular shifts by equal parts of the mixture to average over
            (MSST's ``bigshifts``); 0 and 1 separate the mixture once. Estimates are kept in a
            temporary file until all are known.
        test_time_augmentation: Average the estimates of each chunk with those of its swapped
            channels and of its inverted polarity, at three times the cost.
        normalise_mixture: Separate the mixture minus its mean, divided by its deviation, both of
            the mean of its channels, and undo that in the estimates. Nothing is yielded before
            all blocks have been read.
        postprocessing: Post-processing of the estimates; by default none. With muting, nothing is
            yielded before all blocks have been read.
        seed: Seed of the delays.
        members: Settings of the members of an ensemble, each with its own; if there are none, all
            members have these.

    Raises:
        ValueError: A setting is invalid.
    """

    overlap: float = 0.25
    overlap_window: OverlapWindow = "crossfade"
    edges: Edges = "zeros"
    batch_size: int = 4
    shifts: int = 0
    circular_shifts: int = 0
    test_time_augmentation: bool = False
    normalise_mixture: bool = False
    postprocessing: PostProcessing | None = None
    seed: int = 0
    members: tuple[SeparationSettings, ...] = ()
    chunk_seconds: float | None = None

    def __post_init__(self) -> None:
        check_overlap(self.overlap, self.overlap_window, self.edges)
        check_shifts(self.shifts, self.circular_shifts)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1 chunk")
        shortest, longest = _CHUNK_SECONDS
        if self.chunk_seconds is not None and not shortest <= self.chunk_seconds <= longest:
            raise ValueError(
                f"chunk_seconds is {self.chunk_seconds}: give a length from {shortest:g} to "
                f"{longest:g} s"
            )

    def changed(self, **changes: Any) -> SeparationSettings:
        """Return settings with changes, also of all members of an ensemble.

        Post-processing is then that of the ensemble's estimates; its members have none.
        """
        without = {**changes, "postprocessing": None} if "postprocessing" in changes else changes
        members = tuple(member.changed(**without) for member in self.members)
        return replace(self, **changes, members=members)


@runtime_checkable
class StreamSeparator(Protocol):
    """A separator that separates streams in its own way, such as an ensemble."""

    def estimate_stream(
        self,
        blocks: Iterable[Tensor],
        sample_rate: int,
        settings: SeparationSettings,
        progress: Callable[[int], None],
    ) -> Iterator[Tensor]:
        """Separate a mixture as ``separate_stream`` does, without post-processing."""
        ...


def separate(
    model: Separator,
    mixture: Tensor,
    sample_rate: int | None = None,
    settings: SeparationSettings | None = None,
) -> Tensor:
    """Separate a mixture that fits into memory.

    Args:
        model: The separator; its mode and device stay as they are.
        mixture: Waveform, shape (C, T), on the model's device.
        sample_rate: Rate of the mixture, Hz; by default the model's.
        settings: By default ``SeparationSettings()``.

    Returns:
        Estimates at the mixture's rate, shape (S, C, T), ordered as ``model.sources``.

    Raises:
        ValueError: The mixture's shape or a setting of the post-processing is invalid.
    """
    check_waveform(mixture)
    estimates = mixture.new_empty(len(model.sources), *mixture.shape)
    position = 0
    for part in separate_stream(model, [mixture], sample_rate, settings):
        estimates[..., position : position + part.shape[-1]] = part
        position += part.shape[-1]
    return estimates


@torch.no_grad()
def separate_stream(
    model: Separator,
    blocks: Iterable[Tensor],
    sample_rate: int | None = None,
    settings: SeparationSettings | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> Iterator[Tensor]:
    """Separate a mixture block by block.

    Args:
        model: The separator; its mode and device stay as they are.
        blocks: Consecutive blocks of the mixture of any length, shape (C, n).
        sample_rate: Rate of the mixture, Hz; by default the model's.
        settings: By default ``SeparationSettings()``.
        progress: Called with the number of samples just separated.

    Yields:
        Consecutive parts of the estimates, shape (S, C, n), in total as long as the mixture.

    Raises:
        ValueError: A setting of the post-processing is invalid.
    """
    settings = settings or SeparationSettings()
    rate = sample_rate or model.sample_rate
    process = PostProcessor(settings.postprocessing or {}, model.sources, rate)
    if isinstance(model, StreamSeparator):
        estimates = model.estimate_stream(blocks, rate, settings, progress)
    else:
        estimates = _chunked(model, rate, settings, progress)(blocks)
    yield from process(estimates)


def _chunked(
    model: Separator, rate: int, settings: SeparationSettings, progress: Callable[[int], None]
) -> Separate:
    """Return the separation of blocks by overlapping chunks."""

    def run(chunks: Tensor) -> Tensor:
        return apply(model, chunks, rate)

    seconds = settings.chunk_seconds or model.segment_seconds
    chunking = OverlapAdd(
        max(2, round(seconds * rate)), settings.overlap, settings.overlap_window,
        settings.edges, settings.batch_size,
    )  # fmt: skip
    separated: Separate = partial(
        overlap_add,
        partial(average_over_variants, run) if settings.test_time_augmentation else run,
        settings=chunking,
    )
    if delays := draw_delays(settings.shifts, rate, settings.seed):
        separated = partial(average_over_delays, separated, delays=delays)
    passes = max(1, settings.circular_shifts)
    separated = _reporting(separated, shared_progress(progress, passes))
    if passes > 1:
        separated = partial(average_over_circular_shifts, separated, number=passes)
    if settings.normalise_mixture:
        separated = partial(normalised, separated)
    return separated


def shared_progress(progress: Callable[[int], None], passes: int) -> Callable[[int], None]:
    """Return a report of separated samples for several passes over the same mixture."""
    done = 0

    def report(samples: int) -> None:
        nonlocal done
        before, done = done, done + samples
        progress(done // passes - before // passes)

    return report


def _reporting(separate: Separate, progress: Callable[[int], None]) -> Separate:
    """Report the samples that have been separated."""

    def reporting(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for part in separate(blocks):
            progress(part.shape[-1])
            yield part

    return reporting


def check_channels(model: Separator, channels: int) -> None:
    """Raise ``DataError`` unless the model separates audio with this number of channels.

    It does if the audio has as many as the model, or one of them is mono.
    """
    if channels != model.audio_channels and 1 not in (channels, model.audio_channels):
        raise DataError(
            f"the audio has {channels} channels, the model separates {model.audio_channels}; mix "
            f"it down: `separate --downmix`, or ffmpeg -i OLD -ac {model.audio_channels} NEW.wav"
        )


def check_waveform(mixture: Tensor) -> None:
    """Raise a ``ValueError`` unless a mixture is a tensor (C, T)."""
    if not isinstance(mixture, Tensor):
        kind = f"{type(mixture).__module__}.{type(mixture).__qualname__}"
        raise ValueError(
            f"mixture is a {kind}: give a torch tensor (channels, samples), for instance "
            "torch.from_numpy(audio).float()"
        )
    if mixture.ndim != 2:
        raise ValueError(f"mixture has shape {tuple(mixture.shape)}: (channels, samples) expected")


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
        resampled: Tensor = torchaudio.functional.resample(waveform.contiguous(), old, new)
        return resampled
    frames = waveform.reshape(-1, waveform.shape[-1]).T.float().cpu().numpy()
    audio = torch.from_numpy(soxr.resample(frames, old, new).T)  # (n, T)
    return audio.to(waveform).reshape(*waveform.shape[:-1], -1)
