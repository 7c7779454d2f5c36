"""Plain-data description of a model, stored in its checkpoint."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning_modules.base.former_names import with_current_class_paths

KEY = "separator"
# Files of a folder that is a checkpoint: see ``hub_folder``.
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# Arguments of the training; rebuilding the model does not need them.
TRAINING_ARGUMENTS = (
    "optimizer", "lr_scheduler", "loss_function", "pretrained", "parameter_groups", "lora",
)  # fmt: skip
# Far more than the arguments of any model.
_MOST_VALUES, _DEEPEST = 100_000, 50
# Entries that Lightning adds to the hyperparameters.
_INTERNAL = ("_instantiator", "_class_path")


class Described(Protocol):
    """A model that can be described.

    Attributes:
        changeable_hparams: Arguments that may differ from those of the training.
    """

    changeable_hparams: frozenset[str]

    @property
    def hparams(self) -> Mapping[str, Any]:
        """Arguments of the model."""
        ...


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names file, problem, expectation and remedy."""


def check_is_there(path: Path) -> None:
    """Raise unless a checkpoint, a file or a folder, exists; does not import torch.

    Raises:
        CheckpointError: It does not exist; the message lists others nearby.
    """
    if path.is_file() or (path / CONFIG).is_file():
        return
    folder = path if path.is_dir() else path.parent
    found = sorted(str(other) for other in folder.glob("*.ckpt"))
    nearby = "there are " + ", ".join(found[:5]) if found else "train one with `fit` first"
    raise CheckpointError(f"{path}: there is no such checkpoint; {nearby}")


def describe(model: Described) -> dict[str, Any]:
    """Describe in plain data how to build a model: ``class_path`` and ``init_args``."""
    arguments = {
        name: _plain(value)
        for name, value in dict(model.hparams).items()
        if name not in TRAINING_ARGUMENTS + _INTERNAL
    }
    kind = type(model)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def read_description(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's description with class paths of this version; empty if it has none.

    Raises:
        CheckpointError: It is not plain data with ``class_path`` and ``init_args``.
    """
    if KEY not in contents:
        return {}
    given = contents[KEY]
    _check_plain(given)
    class_path, arguments = (
        (given.get("class_path"), given.get("init_args")) if isinstance(given, Mapping) else ("", 0)
    )
    if not isinstance(class_path, str) or not isinstance(arguments, Mapping):
        raise CheckpointError(
            f"its description of the model is {reprlib.repr(given)}: expected class_path (a "
            "string) and init_args (a mapping)"
        )
    description: dict[str, Any] = with_current_class_paths(given)
    return description


def _check_plain(description: Any) -> None:
    """Raise unless a description is a small tree of plain data.

    Files can store other objects, and values that contain themselves or each other without end.
    """
    pending, depth, seen = [description], 0, 0
    while pending:
        depth, seen = depth + 1, seen + len(pending)
        if depth > _DEEPEST or seen > _MOST_VALUES:
            raise CheckpointError(
                f"its description of the model has more than {_MOST_VALUES:,} values or "
                f"{_DEEPEST} levels: expected the arguments of a model"
            )
        parts: list[Any] = []
        for value in pending:
            if isinstance(value, Mapping):
                parts += [*value.keys(), *value.values()]
            elif isinstance(value, (list, tuple)):
                parts += value
            elif not isinstance(value, (str, int, float, type(None))):
                raise CheckpointError(
                    f"its description of the model contains a {type(value).__name__}: expected "
                    "strings, numbers, lists and mappings"
                )
            if len(parts) > _MOST_VALUES:
                break
        pending = parts


def one_line(error: BaseException) -> str:
    """Return the message of any error on one short line, without control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    kind = "" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: "
    return f"{kind}{text:.300}"


def check_same_model(contents: Mapping[str, Any], model: Described) -> None:
    """Check that the weights of a checkpoint's contents fit a model.

    Arguments that its version did not have yet count with their defaults.

    Raises:
        CheckpointError: The architecture or an argument differs.
    """
    theirs, ours = read_description(contents), describe(model)
    if theirs.get("class_path") != ours["class_path"]:
        raise CheckpointError(
            f"the checkpoint is of {theirs.get('class_path', 'an unknown model')}, the config "
            f"builds {ours['class_path']}; use the config of its training"
        )
    stored = {**_defaults(type(model)), **theirs["init_args"]}
    differing = [
        f"{name} ({stored.get(name)!r} in the checkpoint, "
        f"{ours['init_args'].get(name)!r} in the config)"
        for name in sorted({*theirs["init_args"], *ours["init_args"]} - model.changeable_hparams)
        if stored.get(name) != ours["init_args"].get(name)
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint was trained with different model arguments: "
            + "; ".join(differing)
            + "; use the config.yaml of its run"
        )


def _defaults(kind: type) -> dict[str, Any]:
    """Defaults of a model's arguments, with those that it passes on to its base classes."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        init = vars(each).get("__init__")
        for name, parameter in inspect.signature(init).parameters.items() if init else ():
            if parameter.default is not parameter.empty:
                found[name] = _plain(parameter.default)
    return found
