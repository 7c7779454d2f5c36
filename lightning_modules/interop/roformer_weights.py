"""Names of the weights of BS-RoFormer and Mel-Band RoFormer in MSST's files, both ways.

This project stacks the weights of bands of equal width; MSST has one layer per band.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.architectures.bs_roformer import BandSplitTransformer
from lightning_modules.interop.renaming import Rules, count
from lightning_modules.layers.attention import Transformer

# Rotary frequencies, which are never trained and follow from the size of a head.
_ROTARY = re.compile(r"layers\.\d+\.\d+\.layers\.\d+\.0\.rotary_embed\.freqs")
LAYER_NAMES = (
    ("attentions.{}.norm.gain", "layers.{}.0.norm.gamma"),
    ("attentions.{}.qkv.weight", "layers.{}.0.to_qkv.weight"),
    ("attentions.{}.gates.weight", "layers.{}.0.to_gates.weight"),
    ("attentions.{}.gates.bias", "layers.{}.0.to_gates.bias"),
    ("attentions.{}.output.weight", "layers.{}.0.to_out.0.weight"),
    ("feedforwards.{}.norm.gain", "layers.{}.1.net.0.gamma"),
    ("feedforwards.{}.up.weight", "layers.{}.1.net.1.weight"),
    ("feedforwards.{}.up.bias", "layers.{}.1.net.1.bias"),
    ("feedforwards.{}.down.weight", "layers.{}.1.net.4.weight"),
    ("feedforwards.{}.down.bias", "layers.{}.1.net.4.bias"),
)
LAYER_RULES: Rules = tuple(
    (ours.replace(".", r"\.").replace("{}", r"(\d+)"), theirs.replace("{}", r"\1"))
    for ours, theirs in LAYER_NAMES
)


class _Entry(NamedTuple):
    """A tensor of ours, and the tensors of theirs that it is (one), or stacks (one per band)."""

    ours: str
    theirs: list[str]
    stacked: bool = False


def from_msst(model: BandSplitTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of MSST to one of a model with the same settings.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    converted = {}
    for entry in _entries(model):
        tensors = [state[name] for name in entry.theirs]
        if entry.stacked:
            # Of nn.Linear: (outputs, inputs).
            tensors = [tensor.T if tensor.ndim == 2 else tensor[None] for tensor in tensors]
        converted[entry.ours] = torch.stack(tensors) if entry.stacked else tensors[0]
    return converted


def to_msst(model: BandSplitTransformer) -> dict[str, Tensor]:
    """Convert a model's weights to a state dict that MSST loads strictly."""
    state = model.state_dict()
    converted: dict[str, Tensor] = {}
    for entry in _entries(model):
        if not entry.stacked:
            converted[entry.theirs[0]] = state[entry.ours].clone()
            continue
        for name, tensor in zip(entry.theirs, state[entry.ours], strict=True):
            converted[name] = (tensor.T if name.endswith(".weight") else tensor[0]).contiguous()
    for axis, block, transformer in _transformers(model):
        for layer in range(len(transformer.attentions)):
            name = f"layers.{block}.{axis}.layers.{layer}.0.rotary_embed.freqs"
            converted[name] = transformer.positions.frequencies.clone()
    return converted


def unknown_names(model: BandSplitTransformer, names: Sequence[str]) -> list[str]:
    """Return those of a file's names that a model has no place for."""
    known = {name for entry in _entries(model) for name in entry.theirs}
    return [name for name in names if name not in known and not _ROTARY.fullmatch(name)]


def inferred_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments that follow from the shapes of MSST's weights.

    Returns:
        Arguments of ``BandSplitTransformer`` and, as ``number_of_sources``, ``band_inputs`` (real
        numbers per band) and ``norm_per_transformer``, what others follow from.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    first = "layers.0.0.layers.0."
    heads = len(state[f"{first}0.to_gates.weight"])
    features = len(state[f"{first}0.norm.gamma"])
    mask = "mask_estimators.0.to_freqs.0.0"
    hidden_layers = count(state, rf"{re.escape(mask)}\.(\d+)\.weight", step=2) - 1
    hidden = len(state[f"{mask}.0.weight"]) if hidden_layers else features
    bands = count(state, r"band_split\.to_features\.(\d+)\.0\.gamma")
    return {
        "features": features,
        "blocks": count(state, r"layers\.(\d+)\.0\.layers\.0\.0\.norm\.gamma"),
        "heads": heads,
        "head_features": len(state[f"{first}0.to_qkv.weight"]) // (3 * heads),
        "time_layers": count(state, r"layers\.0\.0\.layers\.(\d+)\.0\.norm\.gamma"),
        "band_layers": count(state, r"layers\.0\.1\.layers\.(\d+)\.0\.norm\.gamma"),
        "mask_expansion": hidden // features,
        "mask_hidden_layers": hidden_layers,
        "number_of_sources": count(state, r"mask_estimators\.(\d+)\.to_freqs\.0\.0\.0\.weight"),
        "band_inputs": [
            len(state[f"band_split.to_features.{band}.0.gamma"]) for band in range(bands)
        ],
        "norm_per_transformer": "final_norm.gamma" not in state,
    }


def _transformers(model: BandSplitTransformer) -> Iterator[tuple[int, int, Transformer]]:
    """Yield axis (0 time, 1 bands), block and transformer."""
    for number, block in enumerate(model.blocks):
        for axis, part in enumerate((block.time, block.bands)):
            assert isinstance(part, Transformer)
            yield axis, number, part


def _entries(model: BandSplitTransformer) -> Iterator[_Entry]:
    for group, (_, bands) in enumerate(model.split.layout.groups):
        split = [f"band_split.to_features.{band}" for band in bands]
        yield _Entry(
            f"split.norms.{group}.gain", [f"{name}.0.gamma" for name in split], stacked=True
        )
        for kind in ("weight", "bias"):
            theirs = [f"{name}.1.{kind}" for name in split]
            yield _Entry(f"split.linears.{group}.{kind}", theirs, stacked=True)
            for source, name in enumerate(model.sources):
                for layer in range(model.mask_hidden_layers + 1):
                    theirs = [
                        f"mask_estimators.{source}.to_freqs.{band}.0.{2 * layer}.{kind}"
                        for band in bands
                    ]
                    yield _Entry(f"masks.{name}.groups.{group}.{layer}.{kind}", theirs, True)
    for axis, block, transformer in _transformers(model):
        ours, theirs_prefix = (
            f"blocks.{block}.{('time', 'bands')[axis]}.",
            f"layers.{block}.{axis}.",
        )
        for layer in range(len(transformer.attentions)):
            for our_name, their_name in LAYER_NAMES:
                yield _Entry(
                    ours + our_name.format(layer), [theirs_prefix + their_name.format(layer)]
                )
        if model.norm_per_transformer:
            yield _Entry(f"{ours}norm.gain", [f"{theirs_prefix}norm.gamma"])
    if not model.norm_per_transformer:
        yield _Entry("norm.gain", ["final_norm.gamma"])
