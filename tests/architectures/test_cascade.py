"""Cascade of a denoiser and a separator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.architectures.cascade import Cascade
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.checkpoints import checkpoints


def test_separator_runs_on_the_denoised_mixture(tmp_path: Path) -> None:
    paths = checkpoints(tmp_path)
    cascade = Cascade(*paths)
    assert isinstance(cascade, SourceSeparator)
    assert cascade.sources == ["vocals", "accompaniment"]
    assert not cascade.training
    denoiser, separator = (load_separator(path) for path in paths)
    mixture = 0.1 * torch.randn(2, 2, 9000)
    denoised = denoiser(mixture)[:, 0]
    torch.testing.assert_close(cascade(mixture), separator(denoised))
    assert cascade.separate(mixture[0]).shape == (2, 2, 9000)


def test_denoiser_and_separator_may_differ_in_sample_rate_and_channels(tmp_path: Path) -> None:
    cascade = Cascade(*checkpoints(tmp_path, sample_rate=22050, audio_channels=1))
    assert (cascade.sample_rate, cascade.audio_channels) == (44100, 2)
    mixture = 0.1 * torch.randn(1, 2, 10_001)
    denoised = cascade.denoise(mixture)
    assert denoised.shape == mixture.shape
    # A mono denoiser processes each channel separately.
    alone = cascade.denoise(mixture[:, 1:])
    torch.testing.assert_close(alone, denoised[:, 1:])
    assert cascade(mixture).shape == (1, 2, 2, 10_001)


def test_gradients_reach_denoiser_and_separator(tmp_path: Path) -> None:
    cascade = Cascade(*checkpoints(tmp_path)).train()
    batch = Batch(torch.randn(1, 2, 20_000), torch.randn(1, 2, 2, 20_000))
    cascade.loss(batch)["loss"].backward()

    def has_gradient(part: torch.nn.Module) -> bool:
        gradients: list[Tensor] = [p.grad for p in part.parameters() if p.grad is not None]
        return any(bool(gradient.any()) for gradient in gradients)

    assert has_gradient(cascade.denoiser)
    assert has_gradient(cascade.separator)


def test_swapped_checkpoints_are_refused(tmp_path: Path) -> None:
    denoiser, separator = checkpoints(tmp_path)
    with pytest.raises(ValueError, match="sources vocals, accompaniment, expected a denoiser"):
        Cascade(separator, denoiser)
