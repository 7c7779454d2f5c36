"""Separation of changed mixtures: test-time augmentation, and normalised tracks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lightning_modules.inference.streams import Separate, StreamStore


def average_over_variants(run: Callable[[Tensor], Tensor], chunks: Tensor) -> Tensor:
    """Average the estimates of chunks, of their swapped channels and of their inverted polarity.

    Both changes are undone in the estimates; mono chunks have no channels to swap.

    Args:
        run: Maps chunks (B, C, T) to estimates (B, S, C, T).
        chunks: Waveforms, shape (B, C, T).
    """
    estimates = [run(chunks), -run(-chunks)]
    if chunks.shape[1] > 1:
        estimates.append(run(chunks.flip(1)).flip(2))
    mean = estimates[0]
    for number, estimate in enumerate(estimates[1:], 2):
        # lerp between equal values returns that value without rounding.
        mean = torch.lerp(mean, estimate, 1 / number)
    return mean


def normalised(separate: Separate, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Separate a mixture with zero mean and unit deviation; undo both in the estimates.

    As in Demucs and MSST, mean and deviation are those of the mean of the channels. The mixture is
    stored in a temporary file, since both are known only at its end.

    Args:
        separate: The separation.
        blocks: Consecutive blocks of the mixture, shape (C, n).

    Yields:
        Consecutive parts of the estimates, shape (S, C, n).
    """
    with tempfile.TemporaryFile() as file:
        store = StreamStore(file)
        samples, total, squares = 0, 0.0, 0.0
        for block in store.write_through(blocks):
            mono = block.mean(0).double()
            samples += len(mono)
            total += float(mono.sum())
            squares += float(mono.square().sum())
        if not samples:
            return
        mean = total / samples
        variance = max(0.0, squares / samples - mean**2)
        # Silence stays silence.
        deviation = variance**0.5 + 1e-8
        for part in separate((block - mean) / deviation for block in store.read()):
            yield part * deviation + mean
