"""What a launcher (srun, torchrun) has started, and what cannot work with it.

Read from the environment, before the seconds that Lightning's import takes.
"""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple


class LaunchError(ValueError):
    """The processes that were started cannot train together; the message names the remedy."""


class Processes(NamedTuple):
    """What was started.

    Attributes:
        per_node: Processes on each node.
        nodes: Number of nodes.
        option: The launcher's option that sets the former.
    """

    per_node: int
    nodes: int
    option: str


def started_processes() -> Processes | None:
    """Find out how many processes a launcher started.

    Returns:
        Their number, or None if this process starts its own ones.

    Raises:
        LaunchError: Tasks of a SLURM job were started in a way in which they would wait for
            each other for ever, or each train alone.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        per_node, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        return Processes(per_node, nodes, "--nproc-per-node")
    tasks = int(os.environ.get("SLURM_NTASKS", "0"))
    name = os.environ.get("SLURM_JOB_NAME", "")
    if tasks == 0 or (tasks == 1 and name in ("bash", "interactive")):
        return None
    if tasks > 1 and name in ("bash", "interactive"):
        raise LaunchError(
            f"the job's name is {name!r}, with which Lightning takes each of the {tasks} tasks for "
            "a run of its own; give another with --job-name"
        )
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise LaunchError(
            f"the job has {tasks} tasks, but one process was started, which would wait for the "
            "others for ever; put srun in front: srun python -m lightning_modules.cli ..."
        )
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1" if tasks == nodes == 1 else "0"))
    if per_node * nodes != tasks:
        raise LaunchError(
            f"SLURM started {tasks} tasks on {nodes} nodes, and --ntasks-per-node is "
            f"{per_node or 'not given'}; give --nodes and --ntasks-per-node, one task for each "
            "device, and leave --ntasks out"
        )
    return Processes(per_node, nodes, "--ntasks-per-node")


def match_launcher(trainer: Any) -> None:
    """Take the number of processes from the launcher.

    Args:
        trainer: The trainer's settings; ``devices`` and ``num_nodes`` are set.

    Raises:
        LaunchError: The settings, or the GPUs of the job, contradict it.
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
            "torchrun hands addresses of dead workers on to those that it starts again (seen with "
            "torch 2.14); put TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
    gpus = int(os.environ.get("SLURM_GPUS_ON_NODE", started.per_node))
    if gpus != started.per_node and trainer.accelerator != "cpu":
        raise LaunchError(
            f"the job has {gpus} GPUs on each node and {started.per_node} tasks; ask for as many "
            f"of both, as by {started.option}={gpus}"
        )
    devices = trainer.devices
    if isinstance(devices, list):
        devices = len(devices)
    elif str(devices) in ("auto", "-1"):
        devices = started.per_node
    if str(devices) != str(started.per_node):
        raise LaunchError(
            f"trainer.devices is {trainer.devices}, but {started.per_node} processes were started "
            f"on each node; leave it out, or start with {started.option}={devices}"
        )
    if trainer.num_nodes not in (1, started.nodes):
        raise LaunchError(
            f"trainer.num_nodes is {trainer.num_nodes}, but processes were started on "
            f"{started.nodes} nodes; leave it out"
        )
    trainer.devices, trainer.num_nodes = devices, started.nodes


def is_first_process() -> bool:
    """Whether this is the one process of a run that writes what is written once."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_PROCID", "0") != "0":
        return False
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def here() -> str:
    """Name this process's node, where there may be several; empty elsewhere."""
    nodes = int(os.environ.get("SLURM_NNODES", os.environ.get("GROUP_WORLD_SIZE", "1")))
    return (
        f" on node {os.environ.get('SLURMD_NODENAME', socket.gethostname())}" if nodes > 1 else ""
    )
