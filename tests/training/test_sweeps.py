"""Sweep files of Weights & Biases, and runs that its agents start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lightning_modules import cli
from tests.helpers.command_line import REPOSITORY, TINY
from tests.helpers.wandb_service import Service, serving

SWEEPS = sorted((REPOSITORY / "configs/sweeps").glob("*.yaml"))
assert SWEEPS


def command_of(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The command line that W&B's agent starts for some values."""
    arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    found: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        macro = word.startswith("${")
        given = {"env": ["/usr/bin/env"], **arguments}
        found += given[word[2:-1]] if macro else [word]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_run_with_values_of_a_sweep(
    path: Path, musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last value of each parameter, as an agent starts it; offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"] == {"name": "val/sdr", "goal": "maximize"}
    values = {name: choice["values"][-1] for name, choice in sweep["parameters"].items()}
    words = command_of(sweep, values)
    assert words[:4] == ["/usr/bin/env", "python", "-m", "lightning_modules.cli"]
    assert cli.main([*words[4:], *TINY]) == 0

    (run_dir,) = (tmp_path / "runs").iterdir()
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    for name, value in values.items():
        found = config
        for part in name.split("."):
            found = found[part]
        assert found == value, name
    # The agent's run, also in a later test or when it is resumed.
    assert (run_dir / "wandb_run_id").read_text().strip() == "abc123"
    (logged,) = run_dir.glob("wandb/offline-run-*")
    assert logged.name.endswith("-abc123")
    assert os.environ["WANDB_RUN_ID"] == "abc123"


RUN = [
    "--trainer.max_epochs=1000",
    "--trainer.callbacks=[lightning_modules.callbacks.checkpoints.Checkpoints]",
]


class OneRun(Service):
    """A sweep with one run."""

    config = ""
    values: ClassVar[dict[str, Any]] = {}
    given = False

    def answer_SweepWithRuns(self, _: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "1", "name": "x", "config": self.config, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def answer_CreateAgent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def answer_Heartbeat(self, _: dict[str, Any]) -> dict[str, Any]:
        arguments = {name: {"value": value} for name, value in self.values.items()}
        run = {"type": "run", "run_id": "abc123", "program": "cli.py", "args": arguments}
        commands = [] if OneRun.given else [run]
        OneRun.given = True
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


@pytest.mark.slow
def test_an_agent_starts_a_run_and_forwards_a_signal(musdb_root: Path, tmp_path: Path) -> None:
    """W&B's agent with the stand-in service, started and stopped as by slurm/sweep.sbatch."""
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    # The run logs offline: the stand-in accepts no runs.
    env, *command = sweep["command"]
    sweep["command"] = [env, "WANDB_MODE=offline", *command, *TINY, *RUN]
    OneRun.config = yaml.safe_dump(sweep)
    OneRun.values = {name: choice["values"][-1] for name, choice in sweep["parameters"].items()}
    folder, checkpoints = tmp_path / "runs/unet", tmp_path / "runs/unet/checkpoints"
    with serving(OneRun) as asking, (tmp_path / "out").open("w") as out:
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
        environment |= asking | {"MUSDB_PATH": str(musdb_root), "PYTHONPATH": str(REPOSITORY)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        arguments = ["agent", "--forward-signals", "--count", "1", "me/stemlab/x"]
        with subprocess.Popen(
            [sys.executable, "-m", "wandb", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as agent:
            deadline = time.monotonic() + 120
            while not (checkpoints / "last.ckpt").exists() and time.monotonic() < deadline:
                assert agent.poll() is None, (tmp_path / "out").read_text()
                time.sleep(0.2)
            agent.send_signal(signal.SIGTERM)
            agent.wait(120)
    output = (tmp_path / "out").read_text()
    assert "Stopped; the state is saved in" in output, output
    assert (checkpoints / "last.ckpt").is_file()
    assert (folder / "wandb_run_id").read_text().strip() == "abc123"
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 2
