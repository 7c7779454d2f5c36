"""A lost rank is named with the likely reason, and no rank is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.runtime import ranks
from tests.helpers.processes import kill_all, members, start, until

# A rank that starts two others as Lightning does. Each writes its process id; then all wait, the
# first one outside a collective, where nothing raises an error.
_RANKS = """
import os, subprocess, sys, time
from pathlib import Path
from lightning_modules.runtime import ranks

ranks._GRACE_SECONDS = 0.2
ranks.end_with_main_rank()
rank = os.environ.get("LOCAL_RANK", "0")

def work():
    Path(f"{rank}.pid.tmp").write_text(str(os.getpid()))
    Path(f"{rank}.pid.tmp").rename(f"{rank}.pid")
    time.sleep(600)

if rank != "0":
    work()
with ranks.together():
    ranks.observe([
        subprocess.Popen([sys.executable, __file__], env={**os.environ, "LOCAL_RANK": number})
        for number in "12"
    ])
    work()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_loss_of_a_rank_ends_the_others(lost: int, number: int, tmp_path: Path) -> None:
    (tmp_path / "several.py").write_text(_RANKS)
    process = start("several", folder=tmp_path, PYTHONPATH=f"{os.getcwd()}:{tmp_path}")
    try:
        paths = [tmp_path / f"{rank}.pid" for rank in range(3)]
        until(lambda: all(path.exists() for path in paths), tmp_path, 60)
        os.kill(int(paths[lost].read_text()), number)
        until(lambda: not members(process.pid), tmp_path, 20)
        assert process.wait(20) == (2 if lost else -number)
    finally:
        kill_all(process)
    (line,) = (tmp_path / "output").read_text().split("\n")[1:-1]
    assert line.startswith(f"error: rank {lost} (process {paths[lost].read_text()}) was ")
    assert line.endswith("Resume from last.ckpt with --ckpt_path auto")


class Ended:
    """A process that has ended, or runs (None)."""

    def __init__(self, returncode: int | None) -> None:
        self.pid, self.returncode = 7, returncode

    def poll(self) -> int | None:
        return self.returncode


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ([None, 0], []),
        ([-9], ["rank 1", "signal 9 (Killed)", "memory runs out", "--ckpt_path auto"]),
        ([None, -7], ["rank 2", "(Bus error)", "/dev/shm"]),
        ([-11], ["rank 1", "(Segmentation fault)"]),
        ([2, 0], ["rank 1", "failed with status 2", "message is above"]),
        # The second failed because the third was killed.
        ([0, 2, -9], ["rank 3", "signal 9"]),
    ],
)
def test_reasons(
    statuses: Sequence[int | None], words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODE_RANK", raising=False)
    processes: Any = [Ended(status) for status in statuses]
    text = ranks._find_loss(processes)
    assert bool(text) == bool(words)
    assert all(word in text for word in words), text


GLOO = (
    "[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:2487: "
    "Connection reset by peer. This is typically caused by a remote worker hanging."
)
DistError = type("DistError", (RuntimeError,), {})
DistNetworkError = type("DistNetworkError", (DistError,), {})


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError("Gloo: Timed out waiting 1800000ms for recv operation to complete"), True),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), True),
        (DistNetworkError("The client socket has timed out after 60000ms"), True),
        (RuntimeError("NCCL error: unhandled cuda error"), False),
        (RuntimeError("The size of tensor a must match"), False),
        (ValueError(GLOO), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),  # of a logger
    ],
)
def test_error_of_a_collective_of_a_launcher(
    error: Exception, is_loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ranks._MAIN, raising=False)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ranks.RankLostError if is_loss else type(error)) as raised, ranks.together():
        raise error
    assert str(raised.value).startswith("rank 3 lost the connection") == is_loss
    assert "This is typically" not in str(raised.value) or not is_loss


def test_ranks_end_with_an_error_of_the_first() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    @ranks.together()
    def fail() -> None:
        ranks.observe([process])
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        fail()
    assert process.wait(20) == -signal.SIGKILL
    assert ranks._MAIN not in os.environ


def test_finished_ranks_have_time_to_end() -> None:
    with ranks.together():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
        ranks.observe([process])
    assert process.returncode == 0


@pytest.mark.parametrize("variables", [{}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}])
def test_processes_that_inherit_the_variables_go_on(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a command that a callback of a rank starts, or ranks that are started by hand."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setenv(ranks._MAIN, str(other.pid))
    before = set(sys._current_frames())
    ranks.end_with_main_rank()
    time.sleep(0.05)
    other.kill()
    other.wait()
    assert set(sys._current_frames()) <= before, "no thread waits for it"
