"""The directory of a run: which one, its lock, and its removal if the run never started."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datamodules import command_line
from datamodules.files.writing import replacing
from lightning_modules.configuration.files import CONFIGS, config_name
from lightning_modules.configuration.messages import SettingError
from lightning_modules.runtime.launch import LaunchError, is_first_process, started_processes

RUN_DIR_VARIABLE = "STEMLAB_RUN_DIR"
"""Environment variable that passes the directory to ranks that Lightning starts."""

LOCK, OWNER = "lock", "lock_owner"
_locks: list[FileLock] = []
_created: list[Path] = []


# ------------------------------------------------------------ which directory


def choose_run_dir(subcommand: str, config: Any) -> Path:
    """Choose a run's directory, and pass it on to the other ranks.

    It is ``run_dir`` if given; the directory of the run whose config.yaml or name is given, if
    it is resumed or tested; else a new one.

    Raises:
        SettingError: It holds another run, or several processes would choose different ones.
    """
    if inherited := os.environ.get(RUN_DIR_VARIABLE):
        return Path(inherited)
    resume = subcommand != "fit" or config.ckpt_path is not None
    configs = [Path(str(path)) for path in config.config]
    started = started_processes()
    if config.run_dir:
        run_dir = Path(config.run_dir)
    elif resume and is_used(configs[-1].parent / "checkpoints"):
        run_dir = configs[-1].parent  # the config.yaml of a run was given
    elif started and started.per_node * started.nodes > 1:
        raise SettingError(
            "several processes were started, and each would choose its own run directory: give "
            "all of them the same --run_dir"
        )
    else:
        run_dir = named_run_dir(run_name(configs), resume)
    if not resume and is_first_process() and is_used(run_dir):
        raise SettingError(
            f"{run_dir} already holds a run; resume it with --ckpt_path last, or give another "
            "--run_dir"
        )
    run_dir = run_dir.resolve()
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    if is_first_process():
        print(f"Run directory: {run_dir}")
    return run_dir


def check_owner(run_dir: Path, checkpoint: Path) -> None:
    """Raise a ``SettingError`` if a checkpoint would be resumed in the directory of another run."""
    folder = run_dir / "checkpoints"
    if checkpoint.resolve().parent != folder and any(folder.glob("*.ckpt")):
        raise SettingError(
            f"{run_dir} holds another run than the one of {checkpoint}; give --run_dir with a new "
            "directory, or with that of the checkpoint's run"
        )


def run_name(configs: Sequence[Path]) -> str:
    """Name a run after its configs: ``unet_small`` for unet.yaml and unet/small.yaml."""
    names: list[str] = []
    for path in configs:
        # The config of an earlier run is always config.yaml; its folder has the name.
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
    return folder.is_dir() and any(path.name not in (LOCK, OWNER) for path in folder.iterdir())


def named_run_dir(name: str, resume: bool = False) -> Path:
    """Find the newest run of a name to resume, or make a new directory.

    It is made at once, so that no other run can take it: ``runs/name``, ``runs/name-2`` etc.
    """
    if resume:
        trained = [
            folder
            for folder in Path("runs").glob(f"{name}*/checkpoints")
            if re.fullmatch(rf"{re.escape(name)}(-\d+)?", folder.parent.name) and is_used(folder)
        ]
        newest = max(trained, key=lambda folder: folder.stat().st_mtime, default=None)
        return newest.parent if newest else Path("runs", name)
    command_line.check_folder(Path("runs"), "the folder of runs,")
    for number in itertools.count(1):
        run_dir = Path("runs", name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            run_dir.mkdir(parents=True)
            _created.append(run_dir.resolve())
            break
    return run_dir


# ----------------------------------------------------------------------- lock


def acquire(run_dir: Path) -> None:
    """Lock a run's directory until ``release``, or until this process ends.

    The directory is made if it does not exist. The kernel holds the lock and releases it
    however its owner ends, on shared file systems also if the owner's node fails: the files of
    a dead run lock nothing.

    Raises:
        LaunchError: Another run has locked it; the message names its process.
    """
    is_new = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(run_dir / LOCK, timeout=0), run_dir / OWNER
    try:
        lock.acquire()
    except Timeout as error:
        holder = owner.read_text().strip() if owner.exists() else "its owner is not known yet"
        raise LaunchError(
            f"{run_dir}: another run works in this directory ({holder}); wait for its end, or "
            "give another --run_dir"
        ) from error
    except (OSError, NotImplementedError) as error:
        print(f"{run_dir}: cannot be locked ({error}): a second run in it will not be refused")
        return
    _locks.append(lock)
    with replacing(owner) as unfinished:
        unfinished.write_text(f"{_this_process()}\n")
    if is_new:  # by now no other process can be using it
        _created.append(run_dir)


def release() -> None:
    """Unlock all directories that this process has locked."""
    while _locks:
        _locks.pop().release()


def _this_process() -> str:
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    slurm = f"SLURM job {job}{f'_{task}' if task else ''}, " if job else ""
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return f"{slurm}process {os.getpid()} on {node}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


# -------------------------------------------------------------------- removal


def remove_unstarted_runs() -> None:
    """Remove directories that this process made for runs that never started."""
    while _created:
        run_dir = _created.pop()
        if not (run_dir / "config.yaml").exists() and not (run_dir / "checkpoints").exists():
            shutil.rmtree(run_dir, ignore_errors=True)
