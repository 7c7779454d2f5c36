"""The directory of a run: its name, and the lock that keeps other processes out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from datamodules import command_line
from lightning_modules.configuration.files import CONFIGS, config_name
from lightning_modules.training import run_lock

# Ranks that Lightning starts as processes of their own find the directory here.
RUN_DIR_VARIABLE = "STEMLAB_RUN_DIR"

made_here: list[Path] = []


def run_name(configs: Sequence[Path]) -> str:
    """Name a run after its configs: ``unet_small`` for unet.yaml and unet/small.yaml."""
    names: list[str] = []
    for path in configs:
        # The config of an earlier run is called config; its folder has the name.
        own = path.parent.name if path.name == "config.yaml" else path.stem
        name = config_name(path).replace("/", "_") if path.is_relative_to(CONFIGS) else own
        if name == "base":
            continue
        if names and name.startswith(f"{names[-1]}_"):
            names.pop()
        names.append(name)
    return "+".join(names) or "run"


def is_used(folder: Path) -> bool:
    """Whether a folder holds anything but the lock of a run."""
    return folder.is_dir() and any(path.name != run_lock.NAME for path in folder.iterdir())


def named_run_dir(name: str, going_on: bool = False) -> Path:
    """Find a run's directory by the run's name.

    Args:
        name: Name of the run.
        going_on: Whether an earlier run goes on.

    Returns:
        The newest run of that name to go on with, or a new directory, made so that no other
        run can take it: ``runs/name``, ``runs/name-2`` and so on.
    """
    candidates = [
        path
        for path in Path("runs").glob(f"{name}*")
        if path.name == name or path.name.removeprefix(f"{name}-").isdigit()
    ]
    trained = [path for path in candidates if is_used(path / "checkpoints")]
    if going_on and trained:
        return max(trained, key=lambda path: (path / "checkpoints").stat().st_mtime)
    run_dir, number = Path("runs") / name, 1
    command_line.check_folder(run_dir.parent, "the folder of runs,")
    while not going_on:
        with suppress(FileExistsError):
            run_dir.mkdir(parents=True)
            made_here.append(run_dir.resolve())
            break
        number += 1
        run_dir = Path("runs") / f"{name}-{number}"
    return run_dir


def remove_unstarted_runs() -> None:
    """Remove the directories that this process made for runs that never began."""
    while made_here:
        run_dir = made_here.pop()
        if not (run_dir / "config.yaml").exists() and not (run_dir / "checkpoints").exists():
            shutil.rmtree(run_dir, ignore_errors=True)
