"""What can be told of an architecture without training it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import nn

from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model

_TRACK_SECONDS = 30.0


class Facts(NamedTuple):
    """Size, cost and delay of a model.

    Attributes:
        parameters: Number of trained parameters; of a factorisation, its templates.
        multiply_adds_per_second: Multiplications with an addition, for a second of audio in
            every channel.
        latency_seconds: How much of the mixture behind a sample has to be known for its estimate;
            None if all of the chunk.
    """

    parameters: int
    multiply_adds_per_second: float
    latency_seconds: float | None


def measure_model(name: str) -> Facts:
    """Tell a config's facts.

    Args:
        name: The config; see ``config_files.chain``.

    Returns:
        The facts.
    """
    model = build_model(name).model.eval()
    return Facts(
        sum(parameter.numel() for parameter in model.parameters()),
        forward_flops(model) / 2 * model.sample_rate,
        latency_seconds(model),
    )


def latency_seconds(model: SourceSeparator) -> float | None:
    """Measure how far ahead a model looks, by changing what comes after a sample.

    Args:
        model: The model, in evaluation mode, on the CPU.

    Returns:
        The delay, seconds: from the earliest sample of the estimates that moves to the
        change. None if it is the whole chunk, as with layers that run backwards in time.
    """
    if any(isinstance(each, nn.RNNBase) and each.bidirectional for each in model.modules()):
        # How far the future is heard back depends on the weights; it may be all of it.
        return None
    samples = round(model.segment_seconds * model.sample_rate)
    random = torch.Generator().manual_seed(0)
    mixture = 0.1 * torch.randn(1, model.audio_channels, samples, generator=random)
    earliest = samples
    with torch.no_grad():
        expected = model(mixture)
        # Frames begin anywhere.
        for change in [round((0.7 + 0.02 * n) * samples) + n for n in range(8)]:
            changed = mixture.clone()
            changed[..., change:] *= -3
            moved = (model(changed) != expected).flatten(0, 2).any(0).nonzero()
            if not len(moved) or int(moved[0]) == 0:
                return None if len(moved) else 0.0
            earliest = min(earliest, int(moved[0]) - change)
    return max(0, -earliest) / model.sample_rate


def real_time_factor(name: str) -> float:
    """Time separation on one thread of the CPU, in this process.

    Args:
        name: The config.

    Returns:
        Seconds that a second of audio takes; the best of three runs.
    """
    model = build_model(name).model.eval()
    random = torch.Generator().manual_seed(0)
    samples = round(_TRACK_SECONDS * model.sample_rate)
    mixture = 0.1 * torch.randn(model.audio_channels, samples, generator=random)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(3):
            started = time.process_time()
            model.separate(mixture)
            times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times) / _TRACK_SECONDS
