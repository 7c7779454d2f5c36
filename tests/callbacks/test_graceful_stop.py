"""Trainings in processes that receive signals, without SLURM."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.processes import kill_all, members, start, until
from tests.helpers.record import write_config

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path, musdb_root: Path) -> list[str]:
    return ["fit", *write_config(tmp_path, musdb_root, num_workers=1)]


def has_handler(process: int, number: int) -> bool:
    caught = Path(f"/proc/{process}/status").read_text().partition("SigCgt:\t")[2].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_sigterm_during_the_imports_of_two_ranks(tmp_path: Path, config: list[str]) -> None:
    """The run stops after its first batch, with a checkpoint and without leftover processes."""
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--run_dir=run"]
    process = start("lightning_modules.cli", *config, *two, folder=tmp_path)
    try:
        until(lambda: has_handler(process.pid, signal.SIGTERM), tmp_path, 30)
        process.send_signal(signal.SIGTERM)
        process.wait(180)
        output = (tmp_path / "output").read_text()
        assert process.returncode == 143, output
        assert "Traceback" not in output
        assert output.rstrip().endswith("--run_dir " + str(tmp_path / "run --ckpt_path last"))
        until(lambda: not members(process.pid), tmp_path, 10)
    finally:
        kill_all(process)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 1


def test_torchrun_restarts_after_a_worker_is_killed(tmp_path: Path, config: list[str]) -> None:
    """Two agents on one machine; the steps since the last checkpoint are repeated exactly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
    torchrun += ["-m", "lightning_modules.cli", *config, "--trainer.max_epochs=2"]
    run_dir = tmp_path / "run"
    agents = []
    try:
        for _ in range(2):
            agents.append(
                start(
                    *torchrun,
                    "--ckpt_path=auto",
                    folder=tmp_path,
                    STEMLAB_RUN_DIR=str(run_dir),
                    PAUSE="0:1:7",
                    TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
                )
            )
        until((run_dir / "paused-0").exists, tmp_path, 180)
        os.kill(int((run_dir / "paused-0").read_text()), signal.SIGKILL)
        for agent in agents:
            agent.wait(180)
            assert agent.returncode == 0, (tmp_path / "output").read_text()
    finally:
        for agent in agents:
            kill_all(agent)
    for rank in (0, 1):
        text = (run_dir / f"record-{rank}.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9, 10]
        for before, after in zip(lines[5:7], lines[7:9], strict=True):
            assert (before["ids"], before["loss"]) == (after["ids"], after["loss"])
