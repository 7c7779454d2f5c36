"""Sweep files of Weights & Biases run this project's command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lightning_modules import cli
from tests.test_cli import REPOSITORY, TINY

SWEEPS = sorted((REPOSITORY / "configs/sweeps").glob("*.yaml"))


def command_of(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The command line that W&B's agent starts for a choice of values."""
    arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    found: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        macro = word.startswith("${")
        given = {"env": ["/usr/bin/env"], **arguments}
        found += given[word[2:-1]] if macro else [word]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_run_of_a_sweep(
    path: Path, musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last of each parameter's values, as an agent starts it; offline."""
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
    # It is the agent's run, and stays it for a test or when it goes on.
    assert (run_dir / "wandb_run_id").read_text().strip() == "abc123"
    (logged,) = run_dir.glob("wandb/offline-run-*")
    assert logged.name.endswith("-abc123")
    assert os.environ["WANDB_RUN_ID"] == "abc123"


def test_there_are_sweeps() -> None:
    assert SWEEPS
