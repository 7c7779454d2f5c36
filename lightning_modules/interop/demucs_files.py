"""Files of the package ``demucs``, read without executing code: models, and bags of models."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from lightning_modules.base.description import CheckpointError, one_line
from lightning_modules.checkpoints.limits import check_weights
from lightning_modules.interop.weights_file import read_weights

_CLASSES = ("model.Demucs", "demucs.Demucs", "hdemucs.HDemucs", "htdemucs.HTDemucs")
_QUANTISED = (
    "contains weights quantised by DiffQ, which are not supported: give the model without `_q` in "
    "its name, such as mdx_extra for mdx_extra_q"
)
_SUFFIXES = (".th", ".safetensors")


class Bag(NamedTuple):
    """Models whose estimates are averaged.

    Attributes:
        models: Their files.
        weights: For each model, its weights in the mean, by source in the file's order; empty if
            all weigh the same.
        segment: Length of a chunk, seconds; None for that of each model.
    """

    models: list[Path]
    weights: list[list[float]]
    segment: float | None


class _PackageClass:
    """Placeholder for the package's classes, which its files name and which are never called."""


def _seconds(*parts: Any) -> float:
    """Convert the arguments of a stored ``Fraction``, "39/5" or 39 and 5."""
    text = "/".join(map(str, parts))
    if not re.fullmatch(r"\d{1,12}(/\d{1,12})?", text):
        raise ValueError(f"a fraction is {text:.40}: expected one such as 39/5")
    return float(Fraction(text))


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model's weights, and the arguments of its class as far as the file has them.

    Raises:
        CheckpointError: The file is invalid.
    """
    if path.suffix == ".safetensors":
        contents, arguments = _read_safetensors(path)
    else:
        contents, arguments = _read_pickle(path)
    if not isinstance(arguments, Mapping):
        raise CheckpointError(
            f"{path}: its arguments are {reprlib.repr(arguments)}; a mapping was expected: "
            "download the file again"
        )
    if isinstance(contents, dict) and "__quantized" in contents:
        raise CheckpointError(f"{path}: {_QUANTISED}")
    check_weights(path, contents)
    return contents, dict(arguments)


def _read_pickle(path: Path) -> tuple[Any, Any]:
    kinds: list[Any] = [(_PackageClass, f"demucs.{name}") for name in _CLASSES]
    with torch.serialization.safe_globals([*kinds, (_seconds, "fractions.Fraction")]):
        contents = read_weights(path)
    if isinstance(contents, tuple) and len(contents) == 4:  # the first version
        _, _, arguments, state = contents
        return state, {"resample": False, **arguments} if isinstance(arguments, dict) else arguments
    if isinstance(contents, dict) and "state" in contents:
        arguments = contents.get("kwargs", {})
        return contents["state"], _with_sources(contents.get("args"), arguments)
    return contents, {}


def _read_safetensors(path: Path) -> tuple[Any, Any]:
    """Read weights with arguments in JSON, as the package loads them from the Hub."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        positional, arguments = (
            json.loads(metadata.get(name, empty), object_hook=_from_json)
            for name, empty in (("args", "[]"), ("kwargs", "{}"))
        )
    except Exception as error:  # the file can contain anything
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({one_line(error)}); download the file again"
        ) from error
    if "structure" in metadata:
        raise CheckpointError(f"{path}: {_QUANTISED}")
    return state, _with_sources(positional, arguments)


def _from_json(value: dict[str, Any]) -> Any:
    if value.get("_type") == "fraction":
        return _seconds(value.get("numerator"), value.get("denominator"))
    return value


def _with_sources(positional: Any, arguments: Any) -> Any:
    """Add the first positional argument, the sources, to the others."""
    if isinstance(positional, list | tuple) and positional and isinstance(arguments, Mapping):
        return {"sources": positional[0], **arguments}
    return arguments


def read_bag(path: Path) -> Bag:
    """Read a bag of models; its models are files beside it, named by their signature.

    Raises:
        CheckpointError: The file is invalid, or a model's file is missing.
    """
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as YAML ({one_line(error)}); download the file again"
        ) from error
    names = contents.get("models") if isinstance(contents, dict) else None
    if not isinstance(names, list) or not names or not all(_is_signature(name) for name in names):
        raise CheckpointError(
            f"{path}: its models are {reprlib.repr(names)}; a bag of the package demucs was "
            "expected, with a list `models` of signatures such as 955717e8"
        )
    weights = contents.get("weights") or []
    if weights and not (
        isinstance(weights, list) and len(weights) == len(names) and all(map(_is_row, weights))
    ):
        raise CheckpointError(
            f"{path}: its weights are {reprlib.repr(weights)}; a list of numbers for each of its "
            f"{len(names)} models was expected"
        )
    segment = contents.get("segment")
    if segment is not None and (not isinstance(segment, int | float) or not 0 < segment <= 600):
        raise CheckpointError(f"{path}: its segment is {segment!r:.40}; seconds were expected")
    return Bag([_file_of(path, name) for name in names], weights, segment)


def _is_signature(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\w{1,64}", name) is not None


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and all(isinstance(weight, int | float) for weight in row)


def _file_of(bag: Path, signature: str) -> Path:
    """Find a model's file, such as 955717e8-8726e21a.th or 955717e8.safetensors."""
    found = [
        path
        for path in sorted(bag.parent.iterdir())
        if path.suffix in _SUFFIXES and path.stem.partition("-")[0] == signature
    ]
    if not found:
        raise CheckpointError(
            f"{bag}: its model {signature} is missing; put the file {signature}-....th (or "
            f"{signature}.safetensors) beside it"
        )
    return found[0]
