"""Names and locks of run directories."""

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

from lightning_modules.configuration.files import CONFIGS
from lightning_modules.runtime.launch import LaunchError
from lightning_modules.training import run_directory
from lightning_modules.training.run_directory import named_run_dir, run_name
from tests.helpers.command_line import REPOSITORY

_HOLD_LOCK = """
import sys
from pathlib import Path
from lightning_modules.training import run_directory
run_directory.acquire(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_run_name_from_configs() -> None:
    unet, small = CONFIGS / "unet.yaml", CONFIGS / "unet" / "small.yaml"
    assert run_name([CONFIGS / "base.yaml", unet]) == "unet"
    assert run_name([unet, small]) == "unet_small"
    assert run_name([unet, Path("mine.yaml")]) == "unet+mine"
    assert run_name([Path("runs/unet-2/config.yaml")]) == "unet-2"
    assert run_name([]) == "run"


def test_each_run_gets_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the earlier ones are still empty."""
    monkeypatch.chdir(tmp_path)
    assert [str(named_run_dir("a")) for _ in range(3)] == ["runs/a", "runs/a-2", "runs/a-3"]
    assert str(named_run_dir("a-b")) == "runs/a-b"
    (Path("runs/a-2/checkpoints")).mkdir()
    Path("runs/a-2/checkpoints/last.ckpt").touch()
    assert str(named_run_dir("a", resume=True)) == "runs/a-2"


# ----------------------------------------------------------------------- lock


@contextmanager
def other_run(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Lock a directory in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD_LOCK, str(run_dir)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_until_the_first_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    with other_run(tmp_path / "run") as process:
        owner = f"SLURM job 7_1, process {process.pid} on node1, since 20"
        for _ in range(2):  # a refused attempt does not clear the owner's name
            with pytest.raises(LaunchError) as error:
                run_directory.acquire(tmp_path / "run")
            assert owner in str(error.value)
            assert "--run_dir" in str(error.value)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_directory.acquire(tmp_path / "run")
    run_directory.release()
    with other_run(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    run_directory.acquire(tmp_path)
    assert "No locks available): a second run" in capsys.readouterr().out
