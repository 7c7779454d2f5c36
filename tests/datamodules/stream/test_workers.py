"""Worker processes of data loaders: signals, exit and death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.stream import workers
from datamodules.stream.workers import WorkerDiedError, explain_worker_death, ignore_signals


def test_workers_ignore_signals() -> None:
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in handled}
    try:
        ignore_signals(0)
        assert all(signal.getsignal(number) == signal.SIG_IGN for number in handled)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_only_errors_about_workers_are_explained() -> None:
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    explained = explain_worker_death(killed)
    assert isinstance(explained, WorkerDiedError)
    assert explain_worker_death(explained) is None
    assert explain_worker_death(RuntimeError("out of luck")) is None


REFERENCED_WORKER = """
import sys
from torch.utils.data import DataLoader
from datamodules.stream.workers import ignore_signals
settings = {"num_workers": 1, "persistent_workers": True, "worker_init_fn": ignore_signals}
loader = DataLoader(range(9), **settings)
batches = iter(loader)
next(batches)
sys.held = [batches]  # as a traceback holds the variables of its frames
"""


@pytest.mark.slow
def test_program_ends_while_a_worker_is_referenced() -> None:
    repository = Path(workers.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", REFERENCED_WORKER]
    ended = subprocess.run(
        command, env=environment, timeout=60, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
