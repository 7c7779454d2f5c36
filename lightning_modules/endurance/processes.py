"""All processes of a run: found by a variable in their environment, in whichever session."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_VARIABLE = "STEMLAB_ENDURANCE"


class RunProcesses:
    """The processes of one start of a run: launcher, ranks, loader workers and scoring processes.

    Args:
        command: Command line.
        output: File that the output is appended to.
    """

    def __init__(self, command: Sequence[str], output: Path) -> None:
        mark = uuid4().hex
        self._mark = f"{_VARIABLE}={mark}".encode()
        dropped = ("MUSDB_PATH", "STEMLAB_RUN_DIR", "SLURM_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        environment |= {_VARIABLE: mark, "OMP_NUM_THREADS": "1"}
        with output.open("ab") as file:
            # Of its own session: a Ctrl-C in the terminal is not for it.
            self.first = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition or the first process's end; return False after some seconds."""
        deadline = time.monotonic() + seconds
        while not reached() and self.first.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)  # a save takes a few milliseconds
        return True

    def living(self) -> list[int]:
        """Ids of the processes that run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                # Zombies have no environment.
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def wait_for_all(self, seconds: float) -> bool:
        """Wait until no process is left; return False after some seconds."""
        deadline = time.monotonic() + seconds
        while self.living():
            if time.monotonic() > deadline:
                return False
            self.first.poll()
            time.sleep(0.05)
        return True

    def send(self, number: int, process: int = 0, everywhere: bool = False) -> None:
        """Send a signal, unless its receiver has ended.

        Args:
            number: The signal.
            process: The only process to receive it; 0 for the first one.
            everywhere: Send it to all processes in the session of the first one instead, as a
                terminal does; workers of torchrun have other sessions.
        """
        with suppress(ProcessLookupError):
            if everywhere:
                os.killpg(self.first.pid, number)
            else:
                os.kill(process or self.first.pid, number)

    def kill(self) -> None:
        """Kill all processes."""
        # Again, as one that was killed may just have started another.
        while processes := self.living():
            for process in processes:
                self.send(signal.SIGKILL, process)
            self.first.poll()
        self.first.wait()
