"""One run a directory."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.runtime.launch import LaunchError
from lightning_modules.training import run_lock
from tests.helpers.command_line import REPOSITORY

_HOLD = "import sys; from lightning_modules.training import run_lock; from pathlib import Path;"
_HOLD += "run_lock.acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


@contextmanager
def other_run(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(run_dir)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_run_is_refused_until_the_first_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    with other_run(tmp_path / "run") as process:
        with pytest.raises(LaunchError) as error:
            run_lock.acquire(tmp_path / "run")
        owner = f"SLURM job 7_1, process {process.pid} on node1, since 20"
        assert owner in str(error.value)
        assert "--run_dir" in str(error.value)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # What it left behind is in nobody's way.
    assert owner in (tmp_path / "run/lock").read_text()
    run_lock.acquire(tmp_path / "run")
    assert owner not in (tmp_path / "run/lock").read_text()
    run_lock.release()


def test_let_go(tmp_path: Path) -> None:
    run_lock.acquire(tmp_path)
    run_lock.release()
    with other_run(tmp_path):
        pass


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    run_lock.acquire(tmp_path)
    assert "No locks available: a second run" in capsys.readouterr().out
