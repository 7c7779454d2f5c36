"""The pool of scoring processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from lightning_modules import signals
from lightning_modules.evaluation.pool import ScoringPool, available_cores


def test_processes_have_their_threads_and_ignore_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with ScoringPool(1, threads=3) as pool:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            assert pool.submit(os.getenv, name).result() == "3"
        for number in signals.STOP:
            assert pool.submit(signal.getsignal, number).result() == signal.SIG_IGN
    assert os.environ["OMP_NUM_THREADS"] == "7", "the main process keeps its own"
    assert "MKL_NUM_THREADS" not in os.environ


def test_terminate_does_not_wait() -> None:
    pool = ScoringPool(1)
    process = pool.submit(os.getpid).result()
    futures = [pool.submit(time.sleep, 600) for _ in range(4)]
    pool.terminate()
    assert futures[-1].done()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
