"""Which jobs are requeued after which exit status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_modules.tools import requeue


@pytest.fixture
def requeues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job; a stand-in for scontrol writes its arguments to the returned file."""
    log = tmp_path / "requeues"
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit ${{REFUSED:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(requeue, "_WAIT_SECONDS", 0)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    start(tmp_path / "run", 2_000)
    return log


def start(run_dir: Path, second: int) -> None:
    (run_dir / "started").touch()
    os.utime(run_dir / "started", (second, second))


def save(run_dir: Path, second: int) -> None:
    (run_dir / "checkpoints/last.ckpt").touch()
    os.utime(run_dir / "checkpoints/last.ckpt", (second, second))


def end(tmp_path: Path, status: int) -> int:
    return requeue.main([str(status), "--run_dir", str(tmp_path / "run"), "--most_crashes", "2"])


@pytest.mark.parametrize("status", [0, 130])
def test_finished_or_interrupted_run_is_not_requeued(
    status: int, tmp_path: Path, requeues: Path
) -> None:
    save(tmp_path / "run", 3_000)
    assert end(tmp_path, status) == status
    assert not requeues.exists()


def test_stopped_run_is_requeued(
    tmp_path: Path, requeues: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end(tmp_path, 75) == 75
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert end(tmp_path, 75) == 75
    assert requeues.read_text().splitlines() == ["requeue 12", "requeue 11_3"]


def test_refused_requeue_is_reported(
    tmp_path: Path,
    requeues: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REFUSED", "1")
    assert end(tmp_path, 75) == 75
    assert f"STEMLAB_RUN_DIR={tmp_path / 'run'}" in capsys.readouterr().err


def test_crash_is_requeued_after_progress_up_to_a_limit(
    tmp_path: Path, requeues: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert end(tmp_path, 1) == 1
    save(run_dir, 1_000)  # by an earlier start
    assert end(tmp_path, 1) == 1
    assert not requeues.exists()
    assert "before it saved a new checkpoint" in capsys.readouterr().out
    for crash in (1, 2, 3):
        start(run_dir, crash * 10_000)
        save(run_dir, crash * 10_000 + 1)
        assert end(tmp_path, 137) == 137
    assert requeues.read_text().splitlines() == ["requeue 12", "requeue 12"]
    assert "crash number 3 (status 137); remove" in capsys.readouterr().out
