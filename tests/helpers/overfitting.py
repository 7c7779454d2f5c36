"""Training on one batch: the test of a sound implementation of a network, loss and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.separator import SourceSeparator
from tests.helpers.melodies import melody

SECONDS = 2.0


def example() -> Batch:
    """Two seconds of two melodies at ``melodies.RATE``, in stereo."""
    melodies = [torch.from_numpy(melody(seed, SECONDS)) for seed in (0, 1)]
    targets = torch.stack(melodies)[None]
    return Batch(targets.sum(1), targets)


def overfitted_sdr(model: SourceSeparator, steps: int, learning_rate: float) -> Tensor:
    """Train a model of two sources on ``example``; return its SDR per source, dB, shape (2,).

    The mixture as estimate has about 0 dB.
    """
    batch = example()
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        errors = model.eval()(batch.mixture) - batch.targets
    ratio = batch.targets.square().sum((0, 2, 3)) / errors.square().sum((0, 2, 3))
    decibels: Tensor = 10 * ratio.log10()
    return decibels
