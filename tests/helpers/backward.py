"""Backward passes: gradients, and the memory that is kept for them."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.separator import SourceSeparator


def gradients_and_kept(model: SourceSeparator, targets: Tensor) -> tuple[list[Tensor | None], int]:
    """Gradients of the loss by parameter, and bytes that were kept for the backward pass."""
    sizes: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss = model.loss(Batch(targets.sum(1), targets))["loss"]
    loss.backward()
    return [parameter.grad for parameter in model.parameters()], sum(sizes.values())
