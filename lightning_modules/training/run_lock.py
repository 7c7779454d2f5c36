"""One run a directory: the second one that starts there is refused."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import TextIO

from lightning_modules.runtime.launch import LaunchError

NAME = "lock"
_held: list[TextIO] = []


def acquire(run_dir: Path) -> None:
    """Keep other runs out of a directory until ``release``, or until this process ends.

    The kernel holds the lock and frees it however its owner ends, on shared file systems also
    with the owner's node: a file that a dead run left is in nobody's way.

    Args:
        run_dir: The run's directory; made if it is not there.

    Raises:
        LaunchError: Another run works there; the message tells which.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / NAME).open("a+")
    try:
        # POSIX locks, unlike those of flock, are not shared with forked workers.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read().strip() or "its owner is not known yet"
        file.close()
        raise LaunchError(
            f"{run_dir}: another run works in this directory ({owner}); wait for its end, or give "
            "another --run_dir"
        ) from error
    except OSError as error:
        print(f"{run_dir}: {error.strerror}: a second run in this directory would not be refused")
        file.close()
        return
    file.truncate(0)
    file.write(f"{_owner()}\n")
    file.flush()
    _held.append(file)


def release() -> None:
    """Let other runs into the directories that were held."""
    while _held:
        _held.pop().close()


def _owner() -> str:
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    slurm = f"SLURM job {job}{f'_{task}' if task else ''}, " if job else ""
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return f"{slurm}process {os.getpid()} on {node}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
