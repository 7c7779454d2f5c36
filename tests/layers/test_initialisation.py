"""Non-negative initialisation."""

import torch
from torch import nn

from lightning_modules.layers.initialisation import init_nonnegative_


def test_outputs_of_non_negative_inputs_are_positive() -> None:
    torch.manual_seed(0)
    for layer, read in (
        (nn.Linear(8, 5), torch.rand(3, 8)),
        (nn.Conv2d(4, 2, 3), torch.rand(1, 4, 6, 6)),
    ):
        before = layer.weight.detach().abs()
        assert (layer.weight < 0).any(), "the test needs negative weights"
        init_nonnegative_(layer)
        assert (layer(read) > 0).all()
        assert torch.equal(layer.weight, before)
        assert layer.weight.requires_grad
