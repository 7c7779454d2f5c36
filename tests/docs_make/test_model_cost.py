"""Parameters, multiply-adds, latency and real-time factor of models."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from model_cost import latency_seconds, measure_model, real_time_factor


class LookAhead(SourceSeparator):
    """A convolution over the next samples, and if requested a bidirectional layer."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, samples: int, recurrent: bool = False) -> None:
        super().__init__(["all"], segment_seconds=0.02, audio_channels=1)
        self.samples = samples
        self.convolution = nn.Conv1d(1, 1, 1 + samples)
        if recurrent:
            self.layer = nn.LSTM(1, 1, bidirectional=True)

    def forward(self, mixture: Tensor) -> Tensor:
        padded = nn.functional.pad(mixture, (0, self.samples))
        estimate: Tensor = self.convolution(padded)
        return estimate[:, None]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self(batch.mixture).sum()}


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_latency_is_the_look_ahead(samples: int) -> None:
    assert latency_seconds(LookAhead(samples).eval()) == pytest.approx(samples / 44100)


def test_latency_of_a_whole_chunk_is_none() -> None:
    assert latency_seconds(LookAhead(1, recurrent=True).eval()) is None
    assert latency_seconds(LookAhead(880).eval()) is None


@pytest.mark.slow
def test_parameters_and_multiply_adds_of_a_config() -> None:
    cost = measure_model("unet/small")
    model = build_model("unet/small").model
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.multiply_adds_per_second == pytest.approx(forward_flops(model) * 44100 / 2)


@pytest.mark.parametrize("multiply_adds", [1e9, 1e12])
def test_real_time_factor_is_below_ten(multiply_adds: float) -> None:
    assert 0 < real_time_factor("unet/small", multiply_adds, seconds=0.5) < 10
