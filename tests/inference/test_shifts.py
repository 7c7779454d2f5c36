"""Shift trick: exact means over random delays, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_modules.base.description import check_same_model
from lightning_modules.inference.separation import SeparationSettings as Settings
from lightning_modules.inference.separation import separate, separate_stream
from lightning_modules.inference.shifts import draw_delays
from tests.helpers.separators import TWO, Gains, Half, Identity

# Delays in samples for seed 0 at 44.1 kHz.
DRAWN = [16450, 19269, 10633, 5269]


class Positions(Identity):
    """Returns each sample's position in its chunk."""

    def __call__(self, mixture: Tensor) -> Tensor:
        positions = torch.arange(mixture.shape[-1], dtype=mixture.dtype)
        return positions.expand(len(mixture), 2, mixture.shape[1], -1)


def test_delays_depend_on_the_seed() -> None:
    assert draw_delays(4, 44100, 0) == DRAWN
    assert draw_delays(2, 44100, 0) == DRAWN[:2]
    assert draw_delays(4, 44100, 1) != DRAWN
    many = draw_delays(10_000, 100, 0)
    assert set(many) == set(range(51))
    assert draw_delays(0, 44100, 0) == []


@pytest.mark.parametrize("shifts", [1, 2, 3, 7])
@pytest.mark.parametrize("samples", [1, 440, 4567, 20011])
def test_identity_model_returns_its_input_bit_for_bit(samples: int, shifts: int) -> None:
    mixture = torch.randn(2, samples)
    estimates = separate(Identity(), mixture, settings=Settings(shifts=shifts))
    assert torch.equal(estimates, mixture.expand(2, 2, samples))


@pytest.mark.parametrize("shifts", [1, 3, 10])
def test_estimate_is_the_mean_over_the_delayed_mixtures(shifts: int) -> None:
    """A sample's position in its chunk moves with the delay, so that the mean is known."""
    samples = torch.arange(5000)
    estimates = separate(
        Positions(),
        torch.zeros(2, 5000),
        settings=Settings(overlap=0.0, shifts=shifts, seed=3),
    )
    delays = draw_delays(shifts, 44100, 3)
    expected = torch.stack([(samples + delay) % 441 for delay in delays]).float().mean(0)
    assert torch.allclose(estimates, expected.expand(2, 2, -1), atol=1e-3)
    plain = separate(Positions(), torch.zeros(2, 5000), settings=Settings(overlap=0.0))
    assert torch.equal(plain, (samples % 441).float().expand(2, 2, -1))


@pytest.mark.parametrize("block", [1, 100, 441, 5000])
def test_result_does_not_depend_on_the_division_into_blocks(block: int) -> None:
    mixture = torch.randn(2, 1234)
    whole = separate(Half(), mixture, settings=Settings(shifts=3, seed=1))
    pieces = list(
        separate_stream(Half(), mixture.split(block, -1), settings=Settings(shifts=3, seed=1))
    )
    assert all(piece.shape[-1] for piece in pieces)
    assert torch.equal(torch.cat(pieces, -1), whole)


def test_stream_buffers_only_the_delays_and_a_few_chunks() -> None:
    received = emitted = worst = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal received, worst
        for _ in range(200):
            worst = max(worst, received - emitted)
            received += 1000
            yield torch.randn(2, 1000)

    for part in separate_stream(Identity(), blocks(), settings=Settings(batch_size=4, shifts=3)):
        emitted += part.shape[-1]
    assert emitted == 200_000
    assert worst < 1000 + 5 * 441 + max(draw_delays(3, 44100, 0))


def test_postprocessing_follows_averaging() -> None:
    mixture = torch.randn(2, 5000)
    progress: list[int] = []
    stream = separate_stream(
        Half(),
        [mixture],
        progress=progress.append,
        settings=Settings(shifts=2, postprocessing={"low_pass_hz": 1000}),
    )
    shifted = torch.cat(list(stream), -1)
    plain = separate(Half(), mixture, settings=Settings(postprocessing={"low_pass_hz": 1000}))
    assert torch.allclose(shifted, plain, atol=1e-5)
    assert sum(progress) == 5000


def test_empty_mixture() -> None:
    assert separate(Identity(), torch.zeros(2, 0), settings=Settings(shifts=2)).shape == (
        2,
        2,
        0,
    )
    assert list(separate_stream(Identity(), [], settings=Settings(shifts=2))) == []


def test_delays_at_another_rate() -> None:
    model = Identity()
    model.segment_seconds = 0.1
    mixture = torch.sin(torch.arange(16_000) / 30).expand(2, -1)
    estimates = separate(model, mixture, 48000, settings=Settings(shifts=2))
    assert (estimates[0] - mixture)[:, 500:-500].abs().max() < 0.02


def test_negative_shifts_raise() -> None:
    with pytest.raises(ValueError, match="shifts is -1: give 0"):
        separate(Identity(), torch.zeros(2, 10), settings=Settings(shifts=-1))
    with pytest.raises(ValueError, match="shifts is -2: give 0"):
        Gains(TWO, shifts=-2)


class Drifting(Gains):
    """Its estimates depend on the position in the chunk."""

    def forward(self, mixture: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, mixture.shape[-1])
        return super().forward(mixture) * ramp


def test_models_accept_shifts_and_checkpoints_accept_other_shifts() -> None:
    mixture = torch.randn(2, 2000)
    plain, shifted = (Drifting(TWO, segment_seconds=0.01, shifts=n) for n in (0, 4))
    expected = separate(plain, mixture, settings=replace(plain.separation_settings, shifts=4))
    assert torch.equal(shifted.separate(mixture), expected)
    assert torch.equal(shifted.separate(mixture), shifted.separate(mixture))
    assert not torch.equal(plain.separate(mixture), expected)
    checkpoint: dict[str, object] = {}
    plain.on_save_checkpoint(checkpoint)
    check_same_model(checkpoint, shifted)
