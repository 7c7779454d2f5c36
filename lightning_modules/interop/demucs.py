"""Import of weights of the package ``demucs``."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.hybrid_demucs import UNUSED, HybridDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.checkpoints.limits import building_from, check_weights
from lightning_modules.interop.weights_file import (
    integer_setting,
    our_order,
    read_weights,
    source_names,
)

# The package's order of sources.
PACKAGE_SOURCES = ("drums", "bass", "other", "vocals")


# The third version and later have an identity layer before each activation.
_LATER = re.compile(r"((?:en|de)coder\.\d+)\.3\.(weight|bias)")
_LEVEL = re.compile(r"encoder\.\d+\.0\.weight")
_LSTM_LAYER = re.compile(r"lstm\.lstm\.weight_ih_l\d+")
# Prefixes of the hybrid's branches in the package, and torchaudio's names of the branches.
_BRANCH = re.compile(r"^(t?)((?:en|de)coder\.)")
_BRANCHES = {"t": "time_", "": "freq_"}
_EXPECTED = "weights of the first or second version's network, or of the hybrid, were expected"


class _PackageClass:
    """Placeholder for the package's classes, which its files name and which are never called."""


def from_package(
    path: str | Path, sources: Sequence[str] = PACKAGE_SOURCES, resample: bool | None = None
) -> Demucs | HybridDemucs:
    """Build a separator from weights of the package ``demucs``, or of torchaudio's Hybrid Demucs.

    Args:
        path: A state dict, or a file of any version of the package: the network of its first two
            versions, or the hybrid of its third. The former gets padded convolutions in the decoder
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
    names = source_names(path, sources if given is None or isinstance(given, int) else given)
    # The package trains on segments of 10 s.
    rate = integer_setting(path, settings, "samplerate", 44100)
    facts = {"sample_rate": rate, "segment_seconds": 10.0}
    with building_from(path, path.stat().st_size, _EXPECTED):
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
    model.network.load_state_dict(renamed)
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
    model = HybridDemucs(
        ours, channels=channels, n_fft=8 * bins, audio_channels=audio_channels, **facts
    )
    # torchaudio has unused weights that the package does not have.
    unused = {k: v for k, v in model.network.state_dict().items() if k.startswith(UNUSED)}
    model.network.load_state_dict({**unused, **renamed})
    return model.eval()


def _reorder_heads(
    path: Path, state: dict[str, Tensor], names: Sequence[str], widths: Mapping[str, int]
) -> list[str]:
    """Reorder heads with ``widths`` channels per source; returns our order of sources."""
    ours = our_order(names)
    order = torch.tensor([names.index(name) for name in ours])
    for head, width in widths.items():
        channels = len(state[f"{head}bias"])
        if channels != len(names) * width:
            raise CheckpointError(
                f"{path}: {head}bias has {channels} channels, {width} for each of "
                f"{', '.join(names)} were expected: give the sources in the file's order"
            )
        # Weights (inputs, outputs, kernel ...); outputs are source by source.
        for name, axis in ((f"{head}weight", 1), (f"{head}bias", 0)):
            by_source: Tensor = state[name].unflatten(axis, (len(names), width))
            state[name] = by_source.index_select(axis, order).flatten(axis, axis + 1)
    return ours


def _check_names(path: Path, state: Mapping[str, Tensor], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise CheckpointError(f"{path}: has no {', '.join(missing)}: {_EXPECTED}")


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read weights and the model arguments that the file contains."""
    classes = ("model.Demucs", "demucs.Demucs", "hdemucs.HDemucs")
    kinds = [(_PackageClass, f"demucs.{name}") for name in classes]
    with torch.serialization.safe_globals(kinds):  # type: ignore[arg-type]
        contents = read_weights(path)
    settings: Any = {}
    defaults: dict[str, Any] = {}
    if isinstance(contents, tuple) and len(contents) == 4:  # the first version
        _, _, settings, contents = contents
        defaults = {"resample": False}
    elif isinstance(contents, dict) and "state" in contents:
        settings, contents = contents.get("kwargs", {}), contents["state"]
    if not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{path}: its arguments are {reprlib.repr(settings)}; a mapping was expected: download "
            "the file again"
        )
    if isinstance(contents, dict) and "__quantized" in contents:
        raise CheckpointError(f"{path}: contains quantised weights; a state dict was expected")
    check_weights(path, contents)
    return contents, {**defaults, **settings}
