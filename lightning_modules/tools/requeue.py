"""What becomes of a SLURM job whose run has ended: ``python -m lightning_modules.tools.requeue``.

The last line of ``slurm/train.sbatch``. A run that was stopped by a signal goes
on later; one that crashed does so if it had got further, a few times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError

STARTED = "started"
CRASHES = "crashes"
_STOPPED = os.EX_TEMPFAIL
_CTRL_C = 130
# SLURM ends the script of a job that it requeues; until then the script must not end by itself.
_PATIENCE_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Requeue this job, or this task of an array, if its run should go on.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        The job's exit status: the run's own; 75 for a stopped run that SLURM did not requeue;
        2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.tools.requeue", description=__doc__
    )
    parser.add_argument("status", type=command_line.count(0), help="exit status of srun")
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument(
        "--most_crashes", type=command_line.count(0), default=5, help="requeues after a crash"
    )
    given = parser.parse_args(arguments)
    return command_line.run(lambda: _requeue(given))


def _requeue(given: argparse.Namespace) -> int:
    reason = reason_to_requeue(given.status, given.run_dir, given.most_crashes)
    if reason is None:
        return int(given.status)
    print(f"Requeue of {job()}: {reason}.", flush=True)
    requeued = subprocess.run(["scontrol", "requeue", job()], check=False).returncode == 0
    if requeued:
        time.sleep(_PATIENCE_SECONDS)
    else:
        print(
            f"SLURM refused it; go on with: STEMLAB_RUN_DIR={given.run_dir} and the same sbatch "
            "line (was the job submitted with --no-requeue?)",
            file=sys.stderr,
        )
    return int(given.status)


def job() -> str:
    """Name this very job for scontrol.

    A task of an array carries the array's id as well: requeueing that would restart all tasks.

    Raises:
        DataError: This is no job of SLURM.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise DataError(
            "SLURM_JOB_ID is not set: this is no job of SLURM, and there is nothing to requeue; "
            "submit slurm/train.sbatch, whose last line this is"
        )
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if task is not None:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return os.environ["SLURM_JOB_ID"]


def reason_to_requeue(status: int, run_dir: Path, most_crashes: int) -> str | None:
    """Judge how a run ended.

    A crash counts in the file ``crashes`` of the run's directory.

    Args:
        status: Exit status of srun.
        run_dir: The run's directory; the file ``started`` there is as old as this start.
        most_crashes: How many crashes are followed by a requeue.

    Returns:
        Why the job should be requeued, or None if it should not.

    Raises:
        DataError: The directory is not that of a run that SLURM started.
    """
    if status in (0, _CTRL_C):
        return None
    if status == _STOPPED:
        return "stopped by a signal, its state is saved"
    if not (run_dir / STARTED).is_file():
        raise DataError(
            f"--run_dir {run_dir}: has no file {STARTED!r}; the directory of a run that "
            "slurm/train.sbatch started was expected"
        )
    began = (run_dir / STARTED).stat().st_mtime_ns
    saved = [
        path.stat().st_mtime_ns for path in run_dir.glob("checkpoints/*.ckpt") if path.exists()
    ]
    if max(saved, default=0) <= began:
        print(
            f"Not requeued: the run ended with status {status} before it had saved anything new, "
            "and would do so again."
        )
        return None
    record = run_dir / CRASHES
    crashes = int(record.read_text()) + 1 if record.is_file() else 1
    record.write_text(f"{crashes}\n")
    if crashes > most_crashes:
        print(f"Not requeued: crash number {crashes} (status {status}); remove {record} to go on.")
        return None
    return f"crash number {crashes} of {most_crashes} (status {status}), after progress"


if __name__ == "__main__":
    sys.exit(main())
