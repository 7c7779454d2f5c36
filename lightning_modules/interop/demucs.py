"""Models of the package ``demucs``: import of all its networks, export of HTDemucs."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.architectures.hybrid_demucs import UNUSED, HybridDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.checkpoints.files import save_separator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop import htdemucs_weights
from lightning_modules.interop.demucs_files import read_bag, read_model
from lightning_modules.interop.weights_file import integer_setting, our_order, source_names

# The package's order of sources.
PACKAGE_SOURCES = ("drums", "bass", "other", "vocals")


# The third version and later have an identity layer before each activation.
_LATER = re.compile(r"((?:en|de)coder\.\d+)\.3\.(weight|bias)")
_LEVEL = re.compile(r"encoder\.\d+\.0\.weight")
_LSTM_LAYER = re.compile(r"lstm\.lstm\.weight_ih_l\d+")
# Prefixes of the hybrid's branches in the package, and torchaudio's names of the branches.
_BRANCH = re.compile(r"^(t?)((?:en|de)coder\.)")
_BRANCHES = {"t": "time_", "": "freq_"}
_EXPECTED = (
    "weights of the first or second version's network, of the hybrid or HTDemucs were expected"
)


def from_package(
    path: str | Path, sources: Sequence[str] = PACKAGE_SOURCES, resample: bool | None = None
) -> Demucs | HybridDemucs | HTDemucs:
    """Build a separator from weights of the package ``demucs``, or of torchaudio's Hybrid Demucs.

    Args:
        path: A state dict, or a file of any version of the package: the network of its first two
            versions, the hybrid of its third or HTDemucs. The former gets padded convolutions in
            the decoder if its weights have the names of the third version or later.
        sources: Order of the sources in the file, unless the file contains it.
        resample: Whether the network of the first two versions works at twice the sample rate; by
            default as the file states, else false for the first and true for the second version.

    Returns:
        The separator, in evaluation mode, with sources in our order.

    Raises:
        CheckpointError: The file is invalid, or of an unsupported network of the package.
    """
    return _build(Path(path), sources, resample)[0]


def _build(
    path: Path, sources: Sequence[str] = PACKAGE_SOURCES, resample: bool | None = None
) -> tuple[Demucs | HybridDemucs | HTDemucs, list[str]]:
    """Build a separator; returns also the order of the sources in the file."""
    state, settings = read_model(path)
    given = settings.get("sources")
    names = source_names(path, sources if given is None or isinstance(given, int) else given)
    # The package trains on segments of 10 s.
    rate = integer_setting(path, settings, "samplerate", 44100)
    facts = {"sample_rate": rate, "segment_seconds": 10.0}
    with building_from(path, path.stat().st_size, _EXPECTED):
        if htdemucs_weights.is_htdemucs(state):
            return _htdemucs(path, state, names, settings, rate), names
        if any(key.startswith(("tencoder.", "time_encoder.")) for key in state):
            return _hybrid(path, state, names, facts), names
        doubled = settings.get("resample", True) if resample is None else resample
        return _demucs(path, state, names, {**facts, "resample": bool(doubled)}), names


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


def _htdemucs(
    path: Path,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    settings: Mapping[str, Any],
    rate: int,
) -> HTDemucs:
    arguments = htdemucs_weights.arguments_of(path, state, settings)
    last, channels = f"decoder.{arguments['depth'] - 1}.conv_tr.", arguments["audio_channels"]
    state = dict(state)
    # Spectra have a real and an imaginary part.
    ours = _reorder_heads(path, state, names, {last: 2 * channels, f"t{last}": channels})
    model = HTDemucs(
        ours, sample_rate=rate, segment_seconds=float(settings.get("segment", 10)), **arguments
    )
    model.network.load_state_dict(state)
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


def write_ensemble(path: Path, folder: Path) -> Path:
    """Convert a bag of models to checkpoints, and a config of their ensemble.

    Args:
        path: The bag's YAML file; its models are beside it.
        folder: Folder for the checkpoints, which have the names of the models' files.

    Returns:
        The config, ``ensemble.yaml`` in the folder.

    Raises:
        CheckpointError: A file is invalid, or the models differ in their sources.
    """
    bag = read_bag(path)
    built = [_build(file) for file in bag.models]
    first, theirs = built[0]
    for file, (model, _) in zip(bag.models, built, strict=True):
        if model.sources != first.sources:
            raise CheckpointError(
                f"{file}: separates {', '.join(model.sources)}, but {bag.models[0]} "
                f"{', '.join(first.sources)}: the same sources were expected"
            )
        if bag.segment is not None and not isinstance(model, HTDemucs):
            model.hparams["chunk_seconds"] = float(bag.segment)
        save_separator(model, folder / f"{file.stem}.ckpt")
    arguments: dict[str, Any] = {"members": [f"{folder / file.stem}.ckpt" for file in bag.models]}
    if bag.weights:
        if any(len(row) != len(theirs) for row in bag.weights):
            raise CheckpointError(
                f"{path}: its weights are {bag.weights}; rows of {len(theirs)} numbers were "
                f"expected, for {', '.join(theirs)}"
            )
        arguments["weights"] = {
            name: [
                float(row[order.index(name)])
                for row, (_, order) in zip(bag.weights, built, strict=True)
            ]
            for name in first.sources
        }
    class_path = "lightning_modules.architectures.ensemble.Ensemble"
    contents = {"model": {"class_path": class_path, "init_args": arguments}}
    config = folder / "ensemble.yaml"
    config.write_text(yaml.safe_dump(contents, sort_keys=False))
    return config


def write(model: HTDemucs, path: Path) -> None:
    """Write a file that the package loads, in float32: ``demucs --repo FOLDER --name NAME``."""
    rate = model.sample_rate
    contents = {
        "klass": type("HTDemucs", (), {"__module__": "demucs.htdemucs"}),
        "args": (),
        "kwargs": {
            "sources": list(model.sources),
            "audio_channels": model.audio_channels,
            "samplerate": rate,
            "segment": Fraction(round(model.segment_seconds * rate), rate),
            **htdemucs_weights.options_of(model),
        },
        "state": {name: value.cpu() for name, value in model.network.state_dict().items()},
        "training_args": {},
    }
    # A pickle names classes by their module, which need not be installed.
    module = ModuleType("demucs.htdemucs")
    module.HTDemucs = contents["klass"]  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"demucs": ModuleType("demucs"), module.__name__: module}):
        torch.save(contents, path)
