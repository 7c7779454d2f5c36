"""Processes started by a launcher (srun, torchrun), and settings that contradict it.

Read from the environment, so that mistakes are reported before Lightning is imported.
"""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple

from datamodules import command_line
from datamodules.errors import counted


class LaunchError(ValueError):
    """The started processes cannot train together; the message says what to change."""


class Processes(NamedTuple):
    """Processes started by a launcher, whose option ``option`` sets ``per_node``."""

    per_node: int
    nodes: int
    option: str


def started_processes() -> Processes | None:
    """Find out how many processes a launcher started; None without a launcher.

    Raises:
        LaunchError: Tasks of a SLURM job would wait for each other for ever, or each train
            alone.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_node, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        return Processes(per_node, nodes, "--nproc-per-node")
    tasks = int(os.environ.get("SLURM_NTASKS", "0"))
    name = os.environ.get("SLURM_JOB_NAME", "")
    is_interactive = name in ("bash", "interactive")
    if tasks == 0 or (tasks == 1 and is_interactive):
        return None
    if is_interactive:
        raise LaunchError(
            f"the job's name is {name!r}, for which Lightning would start a separate run in each "
            f"of the {tasks} tasks; give another name with --job-name"
        )
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise LaunchError(
            f"the job has {tasks} tasks, but only one process was started, which would wait for "
            "the others for ever; start all with srun: "
            f"srun {command_line.program('lightning_modules.cli')} ..."
        )
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1" if tasks == nodes == 1 else "0"))
    if per_node * nodes != tasks:
        raise LaunchError(
            f"SLURM started {counted(tasks, 'task')} on {counted(nodes, 'node')}, and "
            f"--ntasks-per-node is "
            f"{per_node or 'not given'}; give --nodes and --ntasks-per-node, one task for each "
            "device, and omit --ntasks"
        )
    return Processes(per_node, nodes, "--ntasks-per-node")


def match_launcher(trainer: Any) -> None:
    """In a trainer's settings, set ``devices`` and ``num_nodes`` to those of the launcher.

    Raises:
        LaunchError: The settings or the GPUs of the job contradict the launcher.
    """
    started = started_processes()
    if started is None:
        return
    if (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        and is_first_process()
    ):
        print(
            "torchrun gives restarted workers the addresses of dead ones (seen with torch 2.14); "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE", started.per_node))
    if gpus != started.per_node and trainer.accelerator != "cpu":
        raise LaunchError(
            f"the job has {counted(gpus, 'GPU')} on each node and "
            f"{counted(started.per_node, 'task')}; request the same number of both, as with "
            f"{started.option}={gpus}"
        )
    devices = trainer.devices
    if isinstance(devices, list):
        devices = len(devices)
    elif str(devices) in ("auto", "-1"):
        devices = started.per_node
    if str(devices) != str(started.per_node):
        raise LaunchError(
            f"trainer.devices is {trainer.devices}, but "
            f"{counted(started.per_node, 'process was', 'processes were')} started on each "
            f"node; omit it, or start with {started.option}={devices}"
        )
    if trainer.num_nodes not in (1, started.nodes):
        raise LaunchError(
            f"trainer.num_nodes is {trainer.num_nodes}, but processes were started on "
            f"{counted(started.nodes, 'node')}; omit it"
        )
    trainer.devices, trainer.num_nodes = devices, started.nodes


def is_first_process() -> bool:
    """Whether this is the process of rank 0, which writes the files of the run."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_PROCID", "0") != "0":
        return False
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def here() -> str:
    """`` on node <name>`` in a run on several nodes, for error messages; else empty."""
    nodes = int(os.environ.get("SLURM_NNODES", os.environ.get("GROUP_WORLD_SIZE", "1")))
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return f" on node {node}" if nodes > 1 else ""
