"""Worker processes of data loaders: signals, exit and death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.stream import workers
from datamodules.stream.ring_loader import WorkerLoader
from datamodules.stream.workers import (
    STOP_SIGNALS,
    WorkerDiedError,
    explain_worker_error,
    ignore_signals,
)


def test_workers_ignore_signals() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        ignore_signals(0)
        assert all(signal.getsignal(number) == signal.SIG_IGN for number in STOP_SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_sent_at_fork: list[int] = []


def _send_at_fork() -> None:
    for number in _sent_at_fork:
        os.kill(os.getpid(), number)


os.register_at_fork(after_in_child=_send_at_fork)


def test_signals_do_not_kill_a_worker_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "_sent_at_fork", STOP_SIGNALS[1:])
    numbers = cast("Dataset[int]", range(5))
    loader = WorkerLoader(numbers, num_workers=2, batch_size=None, worker_init_fn=ignore_signals)
    assert list(loader) == [0, 1, 2, 3, 4]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint(STOP_SIGNALS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(pid 7) is killed by signal: Killed. ", ["pid 7", "Killed", "memory runs out"]),
        ("(pid 7) is killed by signal: Bus error. It is", ["Bus error", "shm-size", "truncated"]),
        ("(pid 7) is killed by signal: Segmentation fault. ", ["Segmentation", "num_workers=0"]),
        ("(pid 7) exited unexpectedly with exit code 3. Details", ["pid 7", "status 3"]),
        ("(pid(s) 7, 8) exited unexpectedly", ["7, 8", "memory runs out", "shm-size", "truncated"]),
    ],
)
def test_death_of_a_worker_is_explained(text: str, words: list[str]) -> None:
    explained = explain_worker_error(RuntimeError(f"DataLoader worker {text}"))
    assert isinstance(explained, WorkerDiedError)
    for word in [*words, "Resume with --ckpt_path last"]:
        assert word in str(explained)
    assert "\n" not in str(explained)
    assert explain_worker_error(explained) is None
    assert explain_worker_error(RuntimeError("out of luck")) is None


class Failing(Dataset[int]):
    """Raises an error for each item."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> int:
        try:
            raise KeyError("first")
        except KeyError:
            raise self.error  # noqa: B904


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        DataError("a.wav: was removed; restore it"),
        DataError("2 faults in the data:\n  a.wav: empty\n  b.wav: cut"),
        FFmpegMissingError("install ffmpeg"),
        OSError("[Errno 5] Input/output error: 'a.wav'"),
        ValueError("datamodules.errors.DataError: twice"),
        MemoryError("8 GB"),
    ],
)
def test_error_of_a_worker_is_passed_on_without_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        list(DataLoader(Failing(error), num_workers=1))
    explained = explain_worker_error(raised.value)
    assert type(explained) is type(error)
    assert str(explained) == str(error)


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
