"""How weights begin."""

import torch
from torch import nn


@torch.no_grad()
def init_nonnegative_(layer: nn.Conv2d | nn.Linear) -> None:
    """Begin the layer before an output ReLU with no weight below zero, and no bias.

    What it reads is a ReLU's output too, so its own begins above zero wherever there is
    anything to read. With random signs much of it begins below zero for all spectra, where no
    gradient would ever bring it back.

    Args:
        layer: The layer, with a bias.
    """
    assert layer.bias is not None
    layer.weight.abs_()
    layer.bias.zero_()
