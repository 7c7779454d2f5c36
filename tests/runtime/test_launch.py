"""Detection of launchers by their environment variables, and contradicting settings."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules import cli
from lightning_modules.runtime.launch import (
    LaunchError,
    here,
    is_first_process,
    match_launcher,
    started_processes,
)

# Two nodes of four tasks; this is the first task of the second node.
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "4",
    "SLURMD_NODENAME": "node2",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "3",
    "RANK": "5",
    "LOCAL_RANK": "1",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_started_processes_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started_processes() is None
    assert is_first_process()
    assert here() == ""
    set_all(monkeypatch, SLURM)
    assert started_processes() == (4, 2, "--ntasks-per-node")
    assert not is_first_process()
    assert here() == " on node node2"
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert is_first_process()
    set_all(monkeypatch, TORCHRUN)
    assert started_processes() == (2, 3, "--nproc-per-node")
    assert not is_first_process()
    monkeypatch.setenv("RANK", "0")
    assert is_first_process()


def test_ranks_started_by_lightning_are_not_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "NODE_RANK"):
        with monkeypatch.context() as context:
            context.setenv(name, "1")
            assert not is_first_process()


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_an_interactive_shell_is_not_a_launcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert started_processes() is None
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert started_processes() == (1, 1, "--ntasks-per-node")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SLURM_JOB_NAME": "interactive"}, ["'interactive'", "--job-name"]),
        ({"SLURM_STEP_ID": None}, ["8 tasks, but only one process", "srun python"]),
        ({"SLURM_NTASKS_PER_NODE": None}, ["8 tasks on 2 nodes", "is not given", "omit --ntasks"]),
        ({"SLURM_NTASKS": "7"}, ["7 tasks on 2 nodes", "--ntasks-per-node is 4"]),
    ],
)
def test_tasks_that_would_wait_for_ever_raise(
    change: Mapping[str, str | None],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_all(monkeypatch, {**SLURM, **change})
    assert cli.main(["fit", "--config", "unet.yaml"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def settings(**given: Any) -> Any:
    return SimpleNamespace(**({"devices": "auto", "num_nodes": 1, "accelerator": "auto"} | given))


@pytest.mark.parametrize("devices", ["auto", -1, 4, "4", [0, 1, 2, 3]])
def test_settings_follow_the_launcher(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM)
    trainer = settings(devices=devices)
    match_launcher(trainer)
    assert (int(trainer.devices), trainer.num_nodes) == (4, 2)


def test_torchrun_restarts_need_an_environment_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, TORCHRUN | {"RANK": "0", "TORCHELASTIC_MAX_RESTARTS": "3"})
    match_launcher(settings())
    assert not capsys.readouterr().out
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    match_launcher(settings())
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().out


def test_settings_are_kept_without_a_launcher() -> None:
    trainer = settings(devices=8)
    match_launcher(trainer)
    assert trainer.devices == 8


@pytest.mark.parametrize(
    ("given", "gpus", "words"),
    [
        ({"devices": 2}, "4", ["trainer.devices is 2", "4 processes", "--ntasks-per-node=2"]),
        ({"devices": [0]}, "4", ["trainer.devices is [0]", "--ntasks-per-node=1"]),
        ({"num_nodes": 3}, "4", ["trainer.num_nodes is 3", "2 nodes"]),
        ({}, "8", ["8 GPUs on each node and 4 tasks", "--ntasks-per-node=8"]),
    ],
)
def test_settings_that_contradict_the_launcher_raise(
    given: dict[str, Any], gpus: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, SLURM | {"SLURM_GPUS_ON_NODE": gpus})
    with pytest.raises(LaunchError) as error:
        match_launcher(settings(**given))
    assert all(word in str(error.value) for word in words), error.value
    match_launcher(settings(accelerator="cpu"))


def test_the_message_of_a_missing_data_root_names_the_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, SLURM)
    monkeypatch.setenv("MUSDB_PATH", "/nowhere")
    assert cli.main(["fit", "--config", "unet.yaml"]) == 2
    assert "'/nowhere' is not a folder on node node2" in capsys.readouterr().err
