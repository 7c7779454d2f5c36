"""Weights of the package ``demucs``, read into our separators."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.layouts import STEMS
from lightning_modules.demucs import Demucs
from lightning_modules.description import CheckpointError

# The order in which it writes them.
PACKAGE_SOURCES = ("drums", "bass", "other", "vocals")


class _PackageClass:
    """Stands for the package's class, which its files name and which nothing here calls."""


def from_package(
    path: str | Path,
    sources: Sequence[str] = PACKAGE_SOURCES,
    resample: bool | None = None,
) -> Demucs:
    """Build a separator from weights of the package ``demucs``.

    Args:
        path: What a version of the package saved of a network of its first two versions: a state
            dict, or one beside the arguments of its class. Names of weights as in the package's
            third version and later tell that the decoder's convolutions are padded.
        sources: Their order in the file, unless the file tells it.
        resample: The network works at twice the sample rate; by default what the file tells,
            else the first version's does not, and the second's does.

    Returns:
        The separator, in evaluation mode, with sources in our order.

    Raises:
        CheckpointError: The file is not what the package writes, or of another of its networks.
    """
    path = Path(path)
    state, told = _read(path)
    given = told.get("sources")
    names = list(sources if given is None or isinstance(given, int) else given)
    renamed = {_LATER.sub(r"\1.2.\2", key): value for key, value in state.items()}
    padded = renamed.keys() != state.keys()
    depth = sum(_LEVEL.fullmatch(key) is not None for key in renamed)
    last = f"decoder.{depth - 1}.2."
    first, output = renamed.get("encoder.0.0.weight"), renamed.get(f"{last}weight")
    if first is None or output is None or f"{last}bias" not in renamed:
        raise CheckpointError(
            f"{path}: has no encoder.0.0.weight, {last}weight or {last}bias: weights of the first "
            "or second version's network were expected"
        )
    channels, audio_channels = first.shape[:2]
    if output.shape[1] != len(names) * audio_channels:
        raise CheckpointError(
            f"{path}: writes {output.shape[1]} channels of audio, {audio_channels} for each of "
            f"{', '.join(names)} were expected: give the sources in the file's order"
        )
    ours, order = our_order(names)
    renamed[f"{last}weight"] = reordered(output, order, 1)  # (channels, S C, kernel)
    renamed[f"{last}bias"] = reordered(renamed[f"{last}bias"], order, 0)
    model = Demucs(
        ours,
        channels=channels,
        depth=depth,
        lstm_layers=sum(_LSTM_LAYER.fullmatch(key) is not None for key in renamed),
        padded=padded,
        resample=bool(told.get("resample", True) if resample is None else resample),
        audio_channels=audio_channels,
        sample_rate=int(told.get("samplerate", 44100)),
        segment_seconds=10.0,  # that of its training
    )
    try:
        model.network.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: weights of the first or second version's network were expected: {reason} ..."
        ) from error
    return model.eval()


# Where the third version and later ones have a layer that does nothing before each activation.
_LATER = re.compile(r"((?:en|de)coder\.\d+)\.3\.(weight|bias)")
_LEVEL = re.compile(r"encoder\.\d+\.0\.weight")
_LSTM_LAYER = re.compile(r"lstm\.lstm\.weight_ih_l\d+")


def our_order(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Put sources in our order, strangers last.

    Args:
        names: The sources in another order.

    Returns:
        The sources in ours, and at which place in ``names`` each one is.
    """
    places = sorted(
        range(len(names)),
        key=lambda place: STEMS.index(names[place]) if names[place] in STEMS else len(STEMS),
    )
    return [names[place] for place in places], places


def reordered(weights: Tensor, order: Sequence[int], axis: int) -> Tensor:
    """Put the outputs of a layer in another order of sources.

    Args:
        weights: Weights or biases of the layer.
        order: At which place in ``weights`` each source is.
        axis: Axis of the outputs, which has as many for each source, one source after the other.

    Returns:
        Weights of the same shape.
    """
    by_source: Tensor = weights.unflatten(axis, (len(order), -1))
    return by_source.index_select(axis, torch.tensor(order)).flatten(axis, axis + 1)


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read weights, and the arguments that the file tells."""
    names = [(_PackageClass, f"demucs.{module}.Demucs") for module in ("model", "demucs")]
    try:
        with torch.serialization.safe_globals(names):  # type: ignore[arg-type]
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights ({str(error).strip()[:120]}); copy or download it "
            "again, or save its state dict with the package"
        ) from error
    told: Mapping[str, Any] = {}
    if isinstance(contents, tuple) and len(contents) == 4:  # the first version
        _, _, told, contents = contents
        told = {"resample": False, **told}
    elif isinstance(contents, dict) and "state" in contents:
        told, contents = contents.get("kwargs", {}), contents["state"]
    if not isinstance(contents, dict) or "__quantized" in contents:
        raise CheckpointError(
            f"{path}: holds {'quantised weights' if isinstance(contents, dict) else 'no weights'}; "
            "a state dict was expected"
        )
    return contents, told
