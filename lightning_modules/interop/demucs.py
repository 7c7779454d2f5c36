"""Import of weights of the package ``demucs``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.tracks.layouts import STEMS
from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.hybrid_demucs import UNUSED, HybridDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop.weights_file import read_weights

# The package's order of sources.
PACKAGE_SOURCES = ("drums", "bass", "other", "vocals")


class _PackageClass:
    """Placeholder for the package's classes, which its files name and which are never called."""


_CLASSES = ("model.Demucs", "demucs.Demucs", "hdemucs.HDemucs")


def from_package(
    path: str | Path,
    sources: Sequence[str] = PACKAGE_SOURCES,
    resample: bool | None = None,
) -> Demucs | HybridDemucs:
    """Build a separator from weights of the package ``demucs``, or of torchaudio's Hybrid Demucs.

    Args:
        path: A state dict, or a file of any version of the package: the network of its first two
            versions, or the hybrid of its third. The former has padded convolutions in the decoder
            if its weights have the names of the third version or later.
        sources: Order of the sources in the file, unless the file contains it.
        resample: Whether the network of the first two versions works at twice the sample rate; by
            default as the file states, else false for the first and true for the second version.

    Returns:
        The separator, in evaluation mode, with sources in our order.

    Raises:
        CheckpointError: The file is invalid, or of an unsupported network of the package.
    """
    path = Path(path)
    state, settings = _read(path)
    given = settings.get("sources")
    names = list(sources if given is None or isinstance(given, int) else given)
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path}: its sources are {', '.join(names)}: name each source once")
    facts = {
        "sample_rate": int(settings.get("samplerate", 44100)),
        "segment_seconds": 10.0,  # of their training
    }
    if any(key.startswith(("tencoder.", "time_encoder.")) for key in state):
        return _hybrid(path, state, names, facts)
    doubled = settings.get("resample", True) if resample is None else resample
    return _demucs(path, state, names, {**facts, "resample": bool(doubled)})


def _demucs(
    path: Path, state: Mapping[str, Tensor], names: Sequence[str], facts: Mapping[str, Any]
) -> Demucs:
    renamed = {_LATER.sub(r"\1.2.\2", key): value for key, value in state.items()}
    depth = sum(_LEVEL.fullmatch(key) is not None for key in renamed)
    first, last = "encoder.0.0.weight", f"decoder.{depth - 1}.2."
    _check_names(path, renamed, (first, f"{last}weight", f"{last}bias"))
    channels, audio_channels = renamed[first].shape[:2]
    ours = _reorder_heads(path, renamed, names, {last: audio_channels})
    model = Demucs(
        ours,
        channels=channels,
        depth=depth,
        lstm_layers=sum(_LSTM_LAYER.fullmatch(key) is not None for key in renamed),
        padded=renamed.keys() != state.keys(),
        audio_channels=audio_channels,
        **facts,
    )
    _load(path, model, renamed)
    return model.eval()


def _hybrid(
    path: Path, state: Mapping[str, Tensor], names: Sequence[str], facts: Mapping[str, Any]
) -> HybridDemucs:
    renamed = {
        _BRANCH.sub(lambda found: _BRANCHES[found[1]] + found[2], key): value
        for key, value in state.items()
    }
    first, embedding = "time_encoder.0.conv.weight", "freq_emb.embedding.weight"
    _check_names(path, renamed, (first, embedding))
    bins, channels = renamed[embedding].shape  # bins of the first level, an eighth of n_fft
    audio_channels = renamed[first].shape[1]
    depths = {
        branch: sum(key.startswith(branch) and key.endswith(".conv_tr.bias") for key in renamed)
        for branch in ("time_decoder.", "freq_decoder.")
    }
    heads = {f"{branch}{depth - 1}.conv_tr.": depth for branch, depth in depths.items()}
    _check_names(path, renamed, [f"{head}{kind}" for head in heads for kind in ("weight", "bias")])
    time, frequency = heads
    # Spectra have a real and an imaginary part.
    widths = {time: audio_channels, frequency: 2 * audio_channels}
    ours = _reorder_heads(path, renamed, names, widths)
    try:
        model = HybridDemucs(
            ours, channels=channels, n_fft=8 * bins, audio_channels=audio_channels, **facts
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    # torchaudio has unused weights that the package does not have.
    unused = {k: v for k, v in model.network.state_dict().items() if k.startswith(UNUSED)}
    _load(path, model, {**unused, **renamed})
    return model.eval()


# The third version and later have an identity layer before each activation.
_LATER = re.compile(r"((?:en|de)coder\.\d+)\.3\.(weight|bias)")
_LEVEL = re.compile(r"encoder\.\d+\.0\.weight")
_LSTM_LAYER = re.compile(r"lstm\.lstm\.weight_ih_l\d+")


# Prefixes of the package's branches, and torchaudio's names of the branches.
_BRANCH = re.compile(r"^(t?)((?:en|de)coder\.)")
_BRANCHES = {"t": "time_", "": "freq_"}


def our_order(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Sort sources into our order, unknown ones last.

    Args:
        names: The sources in any order.

    Returns:
        The sources in our order, and their indices in ``names``.
    """
    order = sorted(
        range(len(names)),
        key=lambda index: STEMS.index(names[index]) if names[index] in STEMS else len(STEMS),
    )
    return [names[index] for index in order], order


def reordered(weights: Tensor, order: Sequence[int], axis: int) -> Tensor:
    """Reorder the outputs of a layer by source.

    Args:
        weights: Weights or biases of the layer.
        order: Index in ``weights`` of each source.
        axis: Axis of the outputs, source by source, with the same number per source.

    Returns:
        Weights of the same shape.
    """
    by_source: Tensor = weights.unflatten(axis, (len(order), -1))
    return by_source.index_select(axis, torch.tensor(order)).flatten(axis, axis + 1)


def _reorder_heads(
    path: Path, state: dict[str, Tensor], names: Sequence[str], widths: Mapping[str, int]
) -> list[str]:
    """Reorder heads with ``widths`` channels per source; returns our order of sources."""
    ours, order = our_order(names)
    for head, width in widths.items():
        weight, bias = state[f"{head}weight"], state[f"{head}bias"]
        if len(bias) != len(names) * width:
            raise CheckpointError(
                f"{path}: {head}bias has {len(bias)} channels, {width} for each of "
                f"{', '.join(names)} were expected: give the sources in the file's order"
            )
        state[f"{head}weight"] = reordered(weight, order, 1)  # (inputs, outputs, kernel ...)
        state[f"{head}bias"] = reordered(bias, order, 0)
    return ours


def _check_names(path: Path, state: Mapping[str, Tensor], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise CheckpointError(
            f"{path}: has no {', '.join(missing)}: weights of the first or second version's "
            "network, or of the hybrid, were expected"
        )


def _load(path: Path, model: Demucs | HybridDemucs, state: Mapping[str, Tensor]) -> None:
    try:
        model.network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: weights of the first or second version's network, or of the hybrid, were "
            f"expected: {reason} ..."
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read weights and the model arguments that the file contains."""
    kinds = [(_PackageClass, f"demucs.{name}") for name in _CLASSES]
    with torch.serialization.safe_globals(kinds):  # type: ignore[arg-type]
        contents = read_weights(path)
    settings: Mapping[str, Any] = {}
    if isinstance(contents, tuple) and len(contents) == 4:  # the first version
        _, _, settings, contents = contents
        settings = {"resample": False, **settings}
    elif isinstance(contents, dict) and "state" in contents:
        settings, contents = contents.get("kwargs", {}), contents["state"]
    if not isinstance(contents, dict) or "__quantized" in contents:
        raise CheckpointError(
            f"{path}: contains {'quantised' if isinstance(contents, dict) else 'no'} weights; "
            "a state dict was expected"
        )
    return contents, settings
