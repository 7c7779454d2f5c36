"""TFC-TDF: counts, frames, bins, memory, and that it overfits."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.tfc_tdf import TFCTDF
from tests.helpers.backward import kept_share_of_checkpointed
from tests.helpers.configs import settings_of
from tests.helpers.melodies import RATE
from tests.helpers.overfitting import SECONDS, overfitted_sdr

SMALL: dict[str, Any] = {
    "channels": 8, "growth": 4, "scales": 2, "blocks": 1, "n_fft": 256, "hop_length": 64,
    "bins": 128,
}  # fmt: skip


def small(**arguments: Any) -> TFCTDF:
    torch.manual_seed(0)
    return TFCTDF(["vocals", "other"], **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("config", "sources", "parameters"),
    [("tfc_tdf", 4, 111_994_368), ("tfc_tdf/two_stems", 2, 111_990_272)],
)
def test_parameter_counts(config: str, sources: int, parameters: int) -> None:
    """Counted in the authors' code and in MSST."""
    settings = settings_of(config)
    assert len(settings["data"].get("sources", range(4))) == sources
    arguments = {name: settings["model"][name] for name in ("channels", "growth", "scales")}
    with patch.object(Tensor, "uniform_"):
        model = TFCTDF([str(number) for number in range(sources)], **arguments)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == 319


@pytest.mark.parametrize(
    ("samples", "frames"), [(261_120, 256), (261_121, 288), (1, 32), (31 * 1024, 32)]
)
def test_number_of_frames_is_a_multiple(samples: int, frames: int) -> None:
    model = small(n_fft=8192, hop_length=1024, scales=5, bins=512)
    assert model.network_input(torch.zeros(1, 2, samples)).shape == (1, 4, 4097, frames)


@pytest.mark.parametrize("config", ["tfc_tdf", "tfc_tdf/short_frames", "tfc_tdf/small"])
def test_crops_of_the_configs_need_no_padding(config: str) -> None:
    settings = settings_of(config)
    samples = round(settings["data"]["segment_seconds"] * 44100)
    hop = settings["model"].get("hop_length", 1024)
    assert samples % hop == 0
    assert (samples // hop + 1) % 2 ** settings["model"]["scales"] == 0


def test_bins_that_are_not_estimated_are_zero() -> None:
    model = small(bins=96)
    with torch.no_grad():
        estimates = model.spectra(torch.randn(1, 4, 129, 8))
    assert estimates.shape == (1, 2, 4, 129, 8)
    assert not estimates[..., 96:, :].any()
    assert estimates[..., :96, :].all()


def test_checkpointed_gradients_are_equal_and_need_less_memory() -> None:
    targets = 0.1 * torch.randn(1, 2, 2, 64 * 31)
    plain, checkpointed = (
        small(checkpoint_activations=each, blocks=2).train() for each in (False, True)
    )
    assert kept_share_of_checkpointed(plain, checkpointed, targets) < 0.7


@pytest.mark.slow
def test_one_batch_is_overfitted() -> None:
    model = small(
        channels=24, growth=8, n_fft=1024, hop_length=384, bins=512,
        sample_rate=RATE, segment_seconds=SECONDS,
    )  # fmt: skip
    assert (overfitted_sdr(model, steps=70, learning_rate=0.015) > 15).all()
