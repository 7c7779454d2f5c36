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


def kept_share_of_checkpointed(
    plain: SourceSeparator, checkpointed: SourceSeparator, targets: Tensor
) -> float:
    """Bytes that a model with checkpointing keeps for the backward pass, relative to a plain one.

    The gradients of both must be equal.
    """
    (expected, all_bytes), (found, kept) = (
        gradients_and_kept(model, targets) for model in (plain, checkpointed)
    )
    for one, other in zip(expected, found, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    return kept / all_bytes
