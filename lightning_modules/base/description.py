"""What a checkpoint says of the model that it holds, in plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from datamodules.command_line import check_file
from lightning_modules.base.former_names import with_current_class_paths

KEY = "separator"
# A folder with this file is a checkpoint, too: see ``hub_folder``.
CONFIG = "config.json"
# How a run is trained, not what the model is; reloading needs none of it.
TRAINING_ARGUMENTS = ("optimizer", "lr_scheduler", "loss_function", "pretrained")
# Lightning's own notes.
_INTERNAL = ("_instantiator", "_class_path")


class Described(Protocol):
    """What is needed to describe a model.

    Attributes:
        changeable_hparams: Arguments that may differ from those that the weights were trained with.
    """

    changeable_hparams: frozenset[str]

    @property
    def hparams(self) -> Mapping[str, Any]:
        """Arguments of the model, by name."""
        ...


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names file, finding, expectation, remedy."""


def check_is_there(path: Path) -> None:
    """Check that a checkpoint exists, without the seconds that torch takes to be imported.

    Args:
        path: The file, or a folder as ``hub_folder`` writes it.

    Raises:
        CheckpointError: It does not; the message names those beside it, or in the folder.
    """
    if path.is_file() or (path / CONFIG).is_file():
        return
    folder = path if path.is_dir() else path.parent
    found = sorted(str(other) for other in folder.glob("*.ckpt"))
    nearby = "there are " + ", ".join(found[:5]) if found else "train one with `fit` first"
    raise CheckpointError(f"{path}: there is no such checkpoint; {nearby}")


def check_is_free(path: Path) -> None:
    """Check that a checkpoint can be written, and would replace none.

    Args:
        path: The file.

    Raises:
        FileExistsError: It is there.
        DataError: It cannot be written where it would be.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already; give another name with -o")
    check_file(path, "-o")


def describe(model: Described) -> dict[str, Any]:
    """Say in plain data how to build a model again.

    Args:
        model: The separator.

    Returns:
        ``class_path`` and ``init_args``.
    """
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
    """Return the description in a checkpoint, with class paths of this version.

    Args:
        contents: The checkpoint.

    Returns:
        ``class_path`` and ``init_args``; empty if the checkpoint has none.
    """
    description: dict[str, Any] = with_current_class_paths(contents.get(KEY, {}))
    return description


def check_same_model(contents: Mapping[str, Any], model: Described) -> None:
    """Check that a checkpoint's weights belong into a model.

    Args:
        contents: What ``read_checkpoint`` returned.
        model: The model that would take the weights.

    Raises:
        CheckpointError: Another architecture, or another argument.
    """
    theirs, ours = read_description(contents), describe(model)
    if theirs.get("class_path") != ours["class_path"]:
        raise CheckpointError(
            f"the checkpoint is of {theirs.get('class_path', 'an unknown model')}, the config "
            f"builds {ours['class_path']}; use the config that it was trained with"
        )
    differing = [
        f"{name} ({theirs['init_args'].get(name)!r} in the checkpoint, "
        f"{ours['init_args'].get(name)!r} in the config)"
        for name in sorted({*theirs["init_args"], *ours["init_args"]} - model.changeable_hparams)
        if theirs["init_args"].get(name) != ours["init_args"].get(name)
    ]
    if differing:
        raise CheckpointError(
            "the checkpoint was trained with other model arguments: "
            + "; ".join(differing)
            + "; use the config.yaml of its run"
        )
