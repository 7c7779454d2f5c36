"""Requeue a SLURM job whose run has ended: ``python -m lightning_modules.tools.requeue``.

The last line of ``slurm/train.sbatch``. A run stopped by a signal is requeued; a run that crashed
is requeued a limited number of times, if it has saved a checkpoint since it started.
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
# SLURM terminates the script of a requeued job; the script must not end before.
_WAIT_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Requeue this job, or this task of an array, if its run should continue.

    Returns:
        Exit status for the job: that of the run; 2 for a mistake explained on stderr.
    """
    given = build_parser().parse_args(arguments)
    return command_line.run(lambda: _requeue(given))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.requeue", description=__doc__)
    add, count = parser.add_argument, command_line.count(0)
    add("status", type=count, help="exit status of srun")
    add("--run_dir", type=Path, required=True)
    add("--most_crashes", type=count, default=5, help="limit of requeues by crashes")
    return parser


def _requeue(given: argparse.Namespace) -> int:
    reason = reason_to_requeue(given.status, given.run_dir, given.most_crashes)
    if reason is None:
        return int(given.status)
    print(f"Requeue of {job()}: {reason}.", flush=True)
    if subprocess.run(["scontrol", "requeue", job()], check=False).returncode == 0:
        time.sleep(_WAIT_SECONDS)
    else:
        print(
            f"SLURM refused it; resume with STEMLAB_RUN_DIR={given.run_dir} and the same sbatch "
            "line (was the job submitted with --no-requeue?)",
            file=sys.stderr,
        )
    return int(given.status)


def job() -> str:
    """Return the id of this job for scontrol; of an array only this task, not all of them."""
    if "SLURM_JOB_ID" not in os.environ:
        raise DataError(
            "SLURM_JOB_ID is not set: this is not a SLURM job; submit slurm/train.sbatch, which "
            "calls this tool at its end"
        )
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def reason_to_requeue(status: int, run_dir: Path, most_crashes: int) -> str | None:
    """Decide whether a job is requeued; count crashes in the file ``crashes`` of the run.

    Args:
        status: Exit status of srun.
        run_dir: The run's directory; the file ``started`` in it dates from the start of the job.
        most_crashes: Number of crashes that are followed by a requeue.

    Returns:
        Reason for a requeue, or None.

    Raises:
        DataError: ``run_dir`` is not the directory of a run that SLURM started.
    """
    if status in (0, _CTRL_C):
        return None
    if status == _STOPPED:
        return "stopped by a signal, its state is saved"
    if not (run_dir / STARTED).is_file():
        raise DataError(
            f"--run_dir {run_dir}: has no file {STARTED!r}; expected the directory of a run that "
            "slurm/train.sbatch started"
        )
    began = (run_dir / STARTED).stat().st_mtime_ns
    checkpoints = [path for path in run_dir.glob("checkpoints/*.ckpt") if path.exists()]
    if all(path.stat().st_mtime_ns <= began for path in checkpoints):
        print(
            f"Not requeued: the run ended with status {status} before it saved a new checkpoint, "
            "and would do so again."
        )
        return None
    record = run_dir / CRASHES
    crashes = int(record.read_text()) + 1 if record.is_file() else 1
    record.write_text(f"{crashes}\n")
    if crashes > most_crashes:
        print(
            f"Not requeued: crash number {crashes} (status {status}); remove {record} to continue."
        )
        return None
    return f"crash number {crashes} of {most_crashes} (status {status}), with a new checkpoint"


if __name__ == "__main__":
    sys.exit(main())
