"""Losses of batches in which some targets are unknown: these are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def mean_of_known(losses: Tensor, known: Tensor | None) -> Tensor:
    """Average over the examples whose target is known; 0 for a source without any.

    Args:
        losses: Loss per example and source, shape (B, S).
        known: Whether the target is known, shape (B, S); None if all are.

    Returns:
        Shape (S,).
    """
    if known is None:
        return losses.mean(0)
    return torch.where(known, losses, 0).sum(0) / known.sum(0).clamp_min(1)


def distances_by_source(
    distance: Callable[..., Tensor],
    pairs: Iterable[tuple[Tensor, Tensor]],
    known: Tensor | None,
) -> Tensor:
    """Average a distance over the examples whose target is known, for each source.

    The pairs are taken one after the other: stacked, they would take longer and more memory.

    Args:
        distance: ``mse_loss`` or ``l1_loss`` of ``torch.nn.functional``.
        pairs: Estimates and targets of each source, shapes (B, ...).
        known: Whether each target is known, shape (B, S); None if all are.

    Returns:
        Shape (S,); 0 for a source without a known target.
    """
    if known is None:
        return torch.stack([distance(estimate, target) for estimate, target in pairs])
    losses = [
        distance(estimate, target, reduction="none").flatten(1).mean(1)
        for estimate, target in pairs
    ]
    return mean_of_known(torch.stack(losses, 1), known)
