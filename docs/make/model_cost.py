"""Size, cost and latency of a config's model, measured without training it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import nn

from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from lightning_modules.layers.attention import Attention

_LARGE = 30e9  # multiply-adds per second of audio


class ModelCost(NamedTuple):
    """Size, cost and latency of a model.

    Attributes:
        parameters: Number of trained parameters; for a factorisation, its templates.
        multiply_adds_per_second: Multiply-accumulate operations per second of audio, all channels.
        latency_seconds: Look-ahead: how much of the mixture after a sample its estimate depends
            on; None for the whole chunk.
    """

    parameters: int
    multiply_adds_per_second: float
    latency_seconds: float | None


def measure_model(name: str) -> ModelCost:
    """Measure a config's model.

    Args:
        name: The config; see ``configuration.files.chain``.
    """
    model = build_model(name).model.eval()
    return ModelCost(
        sum(parameter.numel() for parameter in model.parameters()),
        forward_flops(model) / 2 * model.sample_rate,
        latency_seconds(model),
    )


def latency_seconds(model: SourceSeparator) -> float | None:
    """Measure a model's look-ahead by changing the mixture from some sample on.

    Args:
        model: The model, in evaluation mode, on the CPU.

    Returns:
        Seconds from the earliest estimated sample that changes to the change; None for the whole
        chunk.
    """
    for each in model.modules():
        # How far back a change reaches depends on the weights: at most the whole chunk.
        if isinstance(each, Attention) or (isinstance(each, nn.RNNBase) and each.bidirectional):
            return None
    samples = round(model.segment_seconds * model.sample_rate)
    random = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(1, model.audio_channels, samples, generator=random)
    earliest = samples
    with torch.no_grad():
        expected = model(mixture)
        # At several positions relative to the frames.
        for change in [round((0.7 + 0.02 * n) * samples) + n for n in range(8)]:
            changed = mixture.clone()
            changed[..., change:] *= -3
            moved = (model(changed) != expected).flatten(0, 2).any(0).nonzero()
            if not len(moved) or int(moved[0]) == 0:
                return None if len(moved) else 0.0
            earliest = min(earliest, int(moved[0]) - change)
    return max(0, -earliest) / model.sample_rate


def real_time_factor(name: str, multiply_adds_per_second: float, seconds: float = 30.0) -> float:
    """Measure separation on one CPU thread of this process.

    Args:
        name: The config.
        multiply_adds_per_second: Of its model. Large ones take minutes for half a minute of audio:
            they compute one chunk only, whose time counts for the part up to the next chunk.
        seconds: Length of the noise to separate, for other models.

    Returns:
        Processor seconds per second of audio; the best of three runs, or the only one of a large
        model.
    """
    model = build_model(name).model.eval()
    large = multiply_adds_per_second > _LARGE
    if large:
        seconds = model.segment_seconds
    random = torch.Generator().manual_seed(0)
    samples = round(seconds * model.sample_rate)
    mixture = 0.1 * torch.randn(model.audio_channels, samples, generator=random)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(1 if large else 3):
            started = time.process_time()
            with torch.no_grad():
                model(mixture[None]) if large else model.separate(mixture)
            times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    counted = seconds * (1 - model.separation_settings.overlap) if large else seconds
    return min(times) / counted
