"""Check the paths of a parsed config before anything is built."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.tracks.layouts import locate, path_of
from lightning_modules.configuration.files import ConfigError
from lightning_modules.runtime import launch

_DATA = "MUSDB_PATH"
RUN_CHECKPOINTS = ("last", "best", "auto")
"""Values of ``ckpt_path`` that stand for checkpoints of the run's directory."""


def check_paths(config: Any) -> None:
    """Check the data roots, the checkpoint and the run's directory.

    Raises:
        ConfigError: A data root or the checkpoint does not exist.
        DataError: The run's directory cannot be written to.
    """
    data = config.data.init_args
    for name, value in (
        ("run_dir", config.run_dir),
        ("ckpt_path", config.ckpt_path),
        ("data.init_args.root", data.get("root")),
    ):
        if value is not None and not value:
            raise ConfigError(f"--{name} is empty; give a path, or omit it")
    given = data.get("root")
    root = given or os.environ.get(_DATA)
    for folder in root if isinstance(root, dict) else [root] if root else []:
        if not data.get("download"):
            remedy = "give --data" if given else f"set {_DATA} to, or give with --data,"
            _check_root(folder, remedy)
    checkpoint = config.ckpt_path
    if checkpoint and checkpoint not in RUN_CHECKPOINTS and not Path(checkpoint).is_file():
        fault = "is a folder" if Path(checkpoint).is_dir() else "does not exist"
        raise ConfigError(
            f"checkpoint {str(checkpoint)!r} {fault}; give a file, or last or best for the "
            "run's own"
        )
    if config.run_dir:
        command_line.check_folder(Path(config.run_dir), "--run_dir")


def check_given_root(arguments: Sequence[str]) -> None:
    """Check the data root of a command line before torch is imported, which takes seconds.

    Roots with weights, and those of configs and of the environment, are checked by `check_paths`.

    Raises:
        ConfigError: There is no data set.
    """
    root, words = "", iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--data.init_args.root", "--data.root"):
            root = value if equals else next(words, "")
    is_path = root not in ("", "null") and not root.startswith("{")
    if is_path and not any("download" in word for word in arguments):
        _check_root(root, "give --data")


def _check_root(folder: str, remedy: str) -> None:
    if not path_of(folder).is_dir() and locate(folder)[0].name != "list":
        raise ConfigError(
            f"data root {str(folder)!r} is not a folder{launch.here()}; {remedy} the folder that "
            "holds train and test, or a list of tracks (.csv or .json)"
        )


def record_data_set(config: Any) -> None:
    """Set the data root to that of the environment, if none is given and the data have one.

    So a run's files tell its data, and ``test`` with its config.yaml uses the same.
    """
    data = config.data.init_args
    if "root" in data and data.root is None and (folder := os.environ.get(_DATA)):
        path = path_of(folder)
        layout = "" if path == Path(folder).expanduser() else f"{folder.partition(':')[0]}:"
        data.root = f"{layout}{path.absolute()}"
