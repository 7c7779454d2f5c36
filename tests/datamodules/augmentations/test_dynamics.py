"""Soft clipping and the limiter: exact values."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from datamodules.augmentations.dynamics import Limiter, SoftClip


def test_soft_clip_is_a_scaled_tanh() -> None:
    stems = torch.tensor([0.0, 1e-4, 0.5, -2.0]).reshape(1, 1, 1, 4)
    result = SoftClip()(stems, torch.tensor([[4.0]])).flatten()
    wanted = [0.0, 1e-4, math.tanh(2.0) / 4, -math.tanh(8.0) / 4]
    assert torch.allclose(result, torch.tensor(wanted), rtol=1e-6)


def limiter(lookahead_samples: int, release_db_per_sample: float) -> Limiter:
    made = Limiter(
        lookahead_seconds=lookahead_samples / 1000,
        release_db_per_second=release_db_per_sample * 1000,
    )
    made.sample_rate = 1000
    return made


def gains_db(limiter: Limiter, signal: Tensor, ceiling: float) -> Tensor:
    result = limiter(signal.reshape(1, 1, 1, -1), torch.tensor([[ceiling]])).flatten()
    return 20 * torch.log10(result / signal)


def test_limiter_gain_around_a_peak() -> None:
    signal = torch.full((20,), 0.1)
    signal[8] = 2.0  # 12.04 dB above the ceiling of 0.5
    found = gains_db(limiter(3, 6.0), signal, 0.5)
    top = 20 * math.log10(4.0)
    # Release of 6 dB per sample, then the maximum of 4 samples ahead, then the mean of 4.
    released = [0.0] * 8 + [top, top - 6, top - 12] + [0.0] * 9
    ahead = [max(released[max(0, k) : k + 4]) for k in range(-3, 20)]
    wanted = [-sum(ahead[k : k + 4]) / 4 for k in range(20)]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)
    assert found[4] == 0
    assert found[5] == pytest.approx(-top / 4, abs=1e-5)
    assert found[8] == pytest.approx(-top, abs=1e-5)


def reference(
    audio: npt.NDArray[np.float64], ceiling: float, lookahead: int, fall: float
) -> npt.NDArray[np.float64]:
    """The limiter as a loop over samples."""
    needed = np.maximum(0, 20 * np.log10(np.maximum(np.abs(audio).max(0), 1e-30) / ceiling))
    reduction, released = 0.0, []
    for need in needed:
        reduction = max(need, reduction - fall)
        released.append(reduction)
    padded = [0.0] * lookahead + released + [0.0] * lookahead
    ahead = [max(padded[k : k + lookahead + 1]) for k in range(len(released) + lookahead)]
    smooth = [np.mean(ahead[k : k + lookahead + 1]) for k in range(len(released))]
    return np.asarray(audio * 10 ** (-np.array(smooth) / 20))


@pytest.mark.parametrize("lookahead", [0, 1, 6, 500])
def test_limiter_equals_a_loop_over_samples(lookahead: int) -> None:
    audio = np.random.default_rng(0).standard_normal((2, 400)) * np.linspace(0, 1, 400)
    stems = torch.from_numpy(audio).float()[None, None]
    result = limiter(lookahead, 0.5)(stems, torch.tensor([[0.4]]))
    wanted = torch.from_numpy(reference(audio, 0.4, lookahead, 0.5)).float()
    assert torch.allclose(result[0, 0], wanted, atol=1e-6)


def test_limiter_keeps_the_ceiling_and_quiet_passages() -> None:
    random = torch.Generator().manual_seed(0)
    stems = torch.randn(3, 2, 2, 30_000, generator=random).pow(3)
    stems[..., 20_000:] *= 0.001
    ceilings = torch.tensor([[0.1, 0.33], [1.0, 0.7], [0.5, math.inf]])
    result = Limiter(release_db_per_second=500.0)(stems, ceilings)
    assert (result.abs().amax((2, 3)) <= ceilings).all()
    assert (result.abs().amax((2, 3)) > 0.99 * ceilings).flatten()[:5].all()
    assert torch.equal(result[..., 29_000:], stems[..., 29_000:])
    assert torch.equal(result[2, 1], stems[2, 1])
    # Both channels have the same gain.
    ratio = result / stems
    assert torch.allclose(ratio[:, :, 0], ratio[:, :, 1], rtol=1e-5)
