"""Count of operations."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.flops import forward_flops, recurrent_flops
from lightning_modules.base.separator import SourceSeparator


class Recurrent(SourceSeparator):
    """One recurrent layer over the samples and a linear layer, with known operations."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(["vocals", "rest"], segment_seconds=0.001)
        self.layer = nn.Sequential(layer)
        self.linear = nn.Linear(layer.hidden_size * (1 + layer.bidirectional), 4)

    def forward(self, mixture: Tensor) -> Tensor:
        states, _ = self.layer(mixture.permute(2, 0, 1))
        estimates: Tensor = self.linear(states).permute(1, 2, 0).unflatten(1, (2, 2))
        return estimates

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self(batch.mixture).sum()}


LAYERS = [
    (nn.LSTM(2, 5, 2, bidirectional=True), 2 * (4 * 5 * (2 + 5) + 4 * 5 * (10 + 5))),
    (nn.LSTM(2, 5), 4 * 5 * (2 + 5)),
    (nn.GRU(2, 6), 3 * 6 * (2 + 6)),
    (nn.RNN(2, 3), 3 * (2 + 3)),
]


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize(("layer", "products"), LAYERS, ids=["blstm", "lstm", "gru", "rnn"])
def test_recurrent_layers_are_counted_once_with_and_without_a_library(
    layer: nn.RNNBase, products: int, library: bool
) -> None:
    model = Recurrent(layer).train()
    linear = model.linear.weight.numel()
    with torch.backends.mkldnn.flags(enabled=library, allow_tf32=None):
        assert forward_flops(model) == 2 * (products + linear)
    assert model.layer.training, "the mode was not restored"
    assert recurrent_flops(layer, torch.zeros(7, 3, 2)) == 2 * 7 * 3 * products


def test_projected_states() -> None:
    layer = nn.LSTM(2, 5, proj_size=3)
    assert recurrent_flops(layer, torch.zeros(1, 1, 2)) == 2 * (4 * 5 * (2 + 3) + 3 * 5)
