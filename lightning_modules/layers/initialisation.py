"""Initialisation of weights."""

import torch
from torch import nn


@torch.no_grad()
def init_nonnegative_(layer: nn.Conv2d | nn.Linear) -> None:
    """Make weights non-negative and the bias zero, for a layer between two ReLUs.

    Its output is then positive wherever its input is. With random signs, many outputs start
    below zero for all spectra, where the second ReLU has no gradient.
    """
    assert layer.bias is not None
    layer.weight.abs_()
    layer.bias.zero_()
