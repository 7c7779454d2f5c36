"""A temporary SLURM cluster of two nodes on this machine.

munged, slurmctld and two slurmd run in the foreground as children of this
process, and end with it, even if it is killed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

# More CPUs than the machine has, so that jobs run side by side.
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
MinJobAge=600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def unavailable_reason() -> str | None:
    """Why no cluster can be started on this machine, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a SLURM cluster is started by root on Linux only"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"not installed: {', '.join(missing)} (slurm-wlm munge)" if missing else None


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


class Cluster:
    """A cluster of two nodes.

    Attributes:
        environment: Environment of SLURM's commands and of jobs that run the project.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._hastened: set[tuple[str, str]] = set()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm")))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name[:5] != "SLURM"},
            "PATH": _path(),
            "SLURM_CONF": str(self._folder / "slurm.conf"),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.run("scancel", "--user=root")
            self.until(lambda: not self.run("squeue", "--noheader"), "the jobs' end", 30)
        finally:
            self._stack.close()

    def _start(self) -> None:
        self._folder.chmod(0o755)  # munged requires a folder that others can read
        for name in ("state", "node1", "node2"):
            (self._folder / name).mkdir()
        ports = _free_ports(3)
        host = socket.gethostname().partition(".")[0]
        config = _CONFIG.format(folder=self._folder, ports=ports, host=host)
        (self._folder / "slurm.conf").write_text(config)
        key = self._folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        socket_path = self._folder / "munge.socket"
        files = [f"--{name}-file={self._folder}/munge.{name}" for name in ("log", "pid", "seed")]
        self._daemon(
            "munged", "--foreground", f"--socket={socket_path}", f"--key-file={key}", *files
        )
        self.until(socket_path.exists, "munged", 10)
        self._daemon("slurmctld", "-D", "-c")
        for node in ("node1", "node2"):
            self._daemon("slurmd", "-D", "-N", node)
        idle = ("sinfo", "--noheader", "--Node", "--partition=main", "--states=idle", "--format=%N")
        self.until(lambda: len(self.run(*idle).split()) == 2, "two idle nodes", 30)

    def _daemon(self, *command: str) -> None:
        name = "-".join([command[0], *command[-1:]]) if command[0] == "slurmd" else command[0]
        log = self._stack.enter_context((self._folder / f"{name}.out").open("w"))
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(_end, process)

    # ------------------------------------------------------------------ jobs

    def run(self, *command: str, check: bool = False) -> str:
        """Run a command; return its output."""
        finished = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or finished.returncode == 0, finished.stderr
        return finished.stdout

    def submit(self, *words: str, folder: Path, **variables: str) -> str:
        """Submit a job; its output goes to ``<job>.out`` (``<array>_<task>.out``) in the folder.

        Args:
            *words: Options of sbatch, the script, and its arguments.
            folder: Working directory of the job.
            **variables: Environment of the job.

        Returns:
            The job's id.
        """
        name = "%A_%a.out" if any(word.startswith("--array") for word in words) else "%j.out"
        submitted = subprocess.run(
            ["sbatch", "--parsable", f"--output={name}", "--cpus-per-task=1", *words],
            env=self.environment | variables,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert submitted.returncode == 0, submitted.stderr
        return submitted.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """A field of a job (``JobState``, ``Restarts``, ``ExitCode``) as scontrol shows it."""
        shown = self.run("scontrol", "show", "job", job, "--oneliner")
        found = re.search(rf"\b{name}=(\S+)", shown)
        return found.group(1) if found else ""

    def wait(self, job: str, seconds: float = 180) -> str:
        """Wait until a job has ended, including requeues; return its state."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

        def ended() -> bool:
            # SLURM delays a requeued job by two minutes.
            if self.field(job, "JobState") == "PENDING" and self.field(job, "Restarts") != "0":
                self.hasten(job)
            return self.field(job, "JobState") in over

        self.until(ended, f"job {job}", seconds)
        return self.field(job, "JobState")

    def hasten(self, job: str) -> None:
        """Start a requeued job soon."""
        start = (job, self.field(job, "Restarts"))
        if self.field(job, "Reason") == "BeginTime" and start not in self._hastened:
            self.run("scontrol", "update", f"jobid={job}", "StartTime=now+1", check=True)
            self._hastened.add(start)

    def until(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition; fail with the daemons' logs after some seconds."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                logs = [file.read_text()[-1500:] for file in sorted(self._folder.glob("*.out"))]
                raise TimeoutError(f"{what}: waited {seconds} s\n" + "\n".join(logs))
            time.sleep(0.25)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
