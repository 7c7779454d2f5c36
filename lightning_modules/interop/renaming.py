"""Weights of other projects that differ from ours in their names and in axes of length one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

Rules = Sequence[tuple[str, str]]
"""Regular expressions for parts of our names, and what replaces them, applied one by one."""


def their_names(model: nn.Module, rules: Rules) -> dict[str, str]:
    """Return the other project's names of a model's weights, by our names."""
    return {ours: their_name(ours, rules) for ours in model.state_dict()}


def their_name(ours: str, rules: Rules) -> str:
    """Return the other project's name for one of ours."""
    for pattern, replacement in rules:
        ours = re.sub(pattern, replacement, ours)
    return ours


def from_theirs(model: nn.Module, state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Convert another project's state dict for a model.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    converted, shapes = {}, model.state_dict()
    for ours, theirs in their_names(model, rules).items():
        value, shape = state[theirs], shapes[ours].shape
        squeezed = [[size for size in each if size > 1] for each in (value.shape, shape)]
        # Other shapes stay, and loading them raises an error that names both.
        converted[ours] = value.reshape(shape) if squeezed[0] == squeezed[1] else value
    return converted


def to_theirs(model: nn.Module, rules: Rules) -> dict[str, Tensor]:
    """Convert a model's weights to another project's names; axes of length one stay."""
    state = model.state_dict()
    return {theirs: state[ours].contiguous() for ours, theirs in their_names(model, rules).items()}


def count(names: Iterable[str], pattern: str, step: int = 1) -> int:
    """Return how many numbers 0, ``step``, 2 ``step`` ... a pattern finds among the names."""
    found = [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]
    return max(found, default=-step) // step + 1
