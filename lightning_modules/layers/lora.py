"""Low-rank adapters of linear layers, for fine-tuning few numbers in place of all weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from lightning_modules.layers.bands import BandLinear
from lightning_modules.layers.cross_transformer import MultiHeadAttention

_LAYERS = (nn.Linear, BandLinear, MultiHeadAttention)
_WEIGHTS = ("weight", "in_proj_weight")
_KEY = re.compile(r"(?P<module>.*?)parametrizations\.(?P<weight>\w+)\.(0\.left|0\.right|original)")


@dataclass(frozen=True)
class LoRA:
    """Settings of low-rank adapters.

    ``W + (alpha / rank) A B`` in place of each weight matrix W of linear layers, attention
    included, with trained A and B and frozen W: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and
    Chen 2022, "LoRA: low-rank adaptation of large language models". A is zero at first.

    Args:
        rank: Columns of A and rows of B.
        alpha: Scale of the adapters, relative to the rank.
        pattern: Regular expression in the names of the weights that get adapters; by default all.
        trained: Regular expression in the names of weights that are trained completely, such as
            the outputs of new sources; by default none.
    """

    rank: int = 8
    alpha: float = 8.0
    pattern: str = ""
    trained: str | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(
                f"lora: rank is {self.rank} and alpha {self.alpha}: give an integer from 1 on and "
                "a number above 0"
            )

    @property
    def scale(self) -> float:
        """Factor of the product A B."""
        return self.alpha / self.rank


class LowRank(nn.Module):
    """Adds a product of two small matrices to a weight matrix, or to one per band."""

    def __init__(self, weight: Tensor, settings: LoRA) -> None:
        super().__init__()
        *bands, rows, columns = weight.shape
        self.scale = settings.scale
        self.left = nn.Parameter(weight.new_zeros(*bands, rows, settings.rank))
        right = weight.new_empty(*bands, settings.rank, columns)
        self.right = nn.Parameter(nn.init.normal_(right, std=columns**-0.5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, of the same shape."""
        return weight + self.scale * (self.left @ self.right)


def add_adapters(model: nn.Module, settings: LoRA) -> str:
    """Add adapters to a model's linear layers and freeze its other weights.

    Returns:
        How many numbers are trained, for the user.

    Raises:
        ValueError: No weight of a linear layer has a name that matches.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        trained = settings.trained is not None and re.search(settings.trained, name) is not None
        parameter.requires_grad_(trained and parameter.requires_grad)
    adapted = [
        (module, weight)
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
        for weight in _WEIGHTS
        if weight in module._parameters and not module._parameters[weight].requires_grad  # type: ignore[union-attr]
        and re.search(settings.pattern, f"{name}.{weight}")
    ]  # fmt: skip
    if not adapted:
        raise ValueError(
            f"lora: no linear or attention layer of the {type(model).__name__} has a weight whose "
            f"name contains {settings.pattern!r}: give another pattern, or train without lora"
        )
    for module, weight in adapted:
        register_parametrization(module, weight, LowRank(getattr(module, weight), settings))
    number = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return f"LoRA: {number:,} numbers are trained, {number / total:.2%} of the {total:,} weights"


def merge_adapters(state: Mapping[str, Tensor], settings: LoRA) -> dict[str, Tensor]:
    """Return a state dict with the adapted weights under their plain names, without adapters."""
    merged = {name: value for name, value in state.items() if not _KEY.fullmatch(name)}
    for name, weight in state.items():
        found = _KEY.fullmatch(name)
        if found and name.endswith(".original"):
            start = name.removesuffix("original")
            product = torch.matmul(state[f"{start}0.left"], state[f"{start}0.right"])
            merged[found["module"] + found["weight"]] = weight + settings.scale * product
    return merged


def split_adapters(
    merged: Mapping[str, Tensor], adapters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state dict that ``merge_adapters`` got, given what it left out."""
    names = {
        found["module"] + found["weight"]
        for name in adapters
        if (found := _KEY.fullmatch(name)) is not None
    }
    return {name: value for name, value in merged.items() if name not in names} | dict(adapters)
