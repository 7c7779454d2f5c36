"""Losses of batches in which some targets are unknown: these are left out."""

from __future__ import annotations

from collections.abc import Callable

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


def mean_distance(
    distance: Callable[..., Tensor], estimate: Tensor, target: Tensor, known: Tensor | None
) -> Tensor:
    """Average a distance over the examples of a source whose target is known.

    Args:
        distance: ``mse_loss`` or ``l1_loss`` of ``torch.nn.functional``.
        estimate: Estimates of the source, shape (B, ...).
        target: Its targets, same shape.
        known: Whether each target is known, shape (B,); None if all are.

    Returns:
        A scalar; 0 if no target is known.
    """
    if known is None:
        return distance(estimate, target)
    losses = distance(estimate, target, reduction="none").flatten(1).mean(1)
    return mean_of_known(losses[:, None], known[:, None])[0]


def known_by_source(known: Tensor | None, sources: int) -> list[Tensor | None]:
    """The columns (B,) of a mask (B, S); Nones without a mask."""
    return [None] * sources if known is None else list(known.unbind(1))
