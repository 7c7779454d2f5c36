"""Groups of parameters, by regular expressions on names, with own settings of the optimiser."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

FACTOR = "lr_factor"
GroupSettings = Mapping[str, Mapping[str, float]]
"""Of each regular expression, settings of the optimiser."""


class Group(NamedTuple):
    """Parameters and what differs for them from the optimiser's settings."""

    parameters: Sequence[nn.Parameter]
    settings: Mapping[str, float]


def check_group_settings(settings: GroupSettings) -> None:
    """Raise ``ValueError`` for a pattern that is no regular expression, and for a bad factor."""
    for pattern, values in settings.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"parameter_groups: {pattern!r} is not a regular expression ({error}); give one "
                "that is searched in the names of weights"
            ) from error
        factor = values.get(FACTOR, 1.0)
        if not 0 <= factor < math.inf:
            raise ValueError(
                f"parameter_groups: {FACTOR} of {pattern!r} is {factor}: give a number above 0, or "
                "0 to freeze"
            )


def layout(settings: GroupSettings | None) -> list[tuple[str, bool]]:
    """Patterns and whether they freeze: what decides to which group a parameter belongs."""
    return [(pattern, values.get(FACTOR) == 0) for pattern, values in (settings or {}).items()]


def group_parameters(model: nn.Module, settings: GroupSettings) -> list[Group]:
    """Group a model's parameters by the first pattern that is found in their name.

    Args:
        model: The model.
        settings: Settings of each pattern.

    Returns:
        Groups in the order of the patterns, without frozen ones; what matches none comes last.

    Raises:
        ValueError: A pattern has no parameters, or all are frozen.
    """
    found: dict[str | None, list[nn.Parameter]] = {pattern: [] for pattern in [*settings, None]}
    names = []
    for name, parameter in model.named_parameters():
        found[next((each for each in settings if re.search(each, name)), None)].append(parameter)
        names.append(name)
    for pattern in settings:
        if not found[pattern]:
            raise ValueError(
                f"parameter_groups: {pattern!r} is in no weight's name, apart from those of "
                f"patterns before it; names are such as {', '.join(names[:: len(names) // 3 + 1])}"
            )
    groups = [
        Group(parameters, {} if pattern is None else settings[pattern])
        for pattern, parameters in found.items()
        if parameters and (pattern is None or settings[pattern].get(FACTOR) != 0)
    ]
    if not groups:
        raise ValueError(
            f"parameter_groups freezes all weights: leave some with a {FACTOR} above 0"
        )
    return groups


def create_optimizer(optimizer: Callable[[Any], Optimizer], groups: Sequence[Group]) -> Optimizer:
    """Create an optimiser of groups; their factors multiply its learning rate.

    Raises:
        ValueError: The optimiser has no such setting.
    """
    if not any(group.settings for group in groups):
        return optimizer([parameter for group in groups for parameter in group.parameters])
    made = optimizer([{"params": list(each.parameters), **each.settings} for each in groups])
    known = {*made.defaults, FACTOR}
    for settings in (group.settings for group in groups):
        if unknown := sorted(set(settings) - known):
            raise ValueError(
                f"{type(made).__name__} has no setting {unknown[0]!r} for parameter_groups: give "
                f"{FACTOR} or one of {', '.join(sorted(made.defaults))}"
            )
    for group in made.param_groups:
        group["lr"] = group["lr"] * group.get(FACTOR, 1.0)
    return made


def freeze(model: nn.Module, settings: GroupSettings) -> None:
    """Freeze the parameters whose first matching pattern has a factor of 0."""
    for name, parameter in model.named_parameters():
        pattern = next((each for each in settings if re.search(each, name)), None)
        if pattern is not None and settings[pattern].get(FACTOR) == 0:
            parameter.requires_grad_(False)
    freeze_statistics(model)


def freeze_statistics(model: nn.Module) -> None:
    """Keep the running statistics of norms whose parameters are all frozen."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        has_statistics = isinstance(getattr(module, "running_mean", None), torch.Tensor)
        # Only norms: a recurrent layer has no backward pass in evaluation mode on GPUs.
        if own and has_statistics and not any(each.requires_grad for each in own):
            module.eval()
