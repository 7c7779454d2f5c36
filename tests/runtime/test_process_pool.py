"""The pool of scoring processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from lightning_modules.runtime import signals
from lightning_modules.runtime.process_pool import PoolTask, ScoringPool, available_cores
from tests.helpers.pool_faults import be_killed


def test_processes_have_their_threads_and_ignore_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with ScoringPool(1, threads=3) as pool:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            assert pool.submit(os.getenv, name).result() == "3"
        for number in signals.STOP:
            assert pool.submit(signal.getsignal, number).result() == signal.SIG_IGN
    assert os.environ["OMP_NUM_THREADS"] == "7", "the main process keeps its value"
    assert "MKL_NUM_THREADS" not in os.environ


def test_terminate_does_not_wait() -> None:
    pool = ScoringPool(1)
    process = pool.submit(os.getpid).result()
    futures = [pool.submit(time.sleep, 600) for _ in range(4)]
    pool.terminate()
    assert futures[-1].done()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


_FULL_PIPE = """
import multiprocessing, os, signal, sys, time
from lightning_modules.runtime.process_pool import ScoringPool
if __name__ == "__main__":
    pool = ScoringPool(2)
    processes = [pool.submit(os.getpid).result()]
    # One task per process, and tracks that do not fit into the pipe.
    futures = [pool.submit(time.sleep, 600) for _ in range(2)]
    futures += [pool.submit(len, bytes(10_000_000)) for _ in range(4)]
    time.sleep(1)
    # A loader worker, which inherits both ends of the pipe.
    fork = multiprocessing.get_context("fork")
    fork.Process(target=time.sleep, args=(600,), daemon=True).start()
    if sys.argv[1] == "broken":
        os.kill(processes[0], signal.SIGKILL)
        futures[-1].exception()
        pool.shutdown()
    else:
        pool.terminate()
    print(all(future.done() for future in futures))
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["terminated", "broken"])
def test_ending_the_pool_does_not_wait_for_queued_tracks(end: str, tmp_path: Path) -> None:
    """A thread may be writing into a pipe that no process reads any more."""
    (tmp_path / "trainer.py").write_text(_FULL_PIPE)
    command = [sys.executable, str(tmp_path / "trainer.py"), end]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "True\n", ended.stderr


_STARTING = """
import os, signal
from concurrent.futures import wait
from lightning_modules.runtime import signals
from lightning_modules.runtime.process_pool import ScoringPool
if __name__ == "__main__":
    signals.install_handlers(*signals.STOP)
    pool = ScoringPool(1)
    future = pool.submit(len, "four")
    for number in 3 * signals.STOP[1:]:  # a second Ctrl-C would end this process
        os.killpg(0, number)
        signals.received = None
        wait([future], 0.05)
    result = future.result()
    pool.shutdown()
    raise SystemExit(result)  # after SIGHUP, nothing is printed
"""


def test_stop_signals_do_not_kill_a_process_that_is_starting(tmp_path: Path) -> None:
    """SLURM and terminals send them to all processes at once."""
    (tmp_path / "trainer.py").write_text(_STARTING)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "trainer.py")],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    assert ended.returncode == 4, ended.stderr


_TRAINER = """
import os, signal, time
from lightning_modules.runtime.process_pool import ScoringPool
if __name__ == "__main__":
    pool = ScoringPool(2)
    # One process is working and one is waiting when the trainer is killed.
    idle, busy = (pool.submit(os.getpid) for _ in range(2))
    pool.submit(time.sleep, 0.2).result()
    print(*pool._processes)
    with open("/proc/self/maps") as maps:  # semaphores: another process may make some meanwhile
        print(*{line.split()[4] for line in maps if "/dev/shm/" in line}, flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
def test_processes_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(_TRAINER)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "trainer.py"]
    with (tmp_path / "output").open("w") as output:
        trainer = subprocess.run(command, cwd=tmp_path, env=environment, stdout=output)
    assert trainer.returncode == -signal.SIGKILL
    lines = (tmp_path / "output").read_text().splitlines()
    processes, semaphores = (line.split() for line in lines)
    assert len(processes) == 2
    assert semaphores
    deadline = time.monotonic() + 20
    while any(Path("/proc", number).exists() for number in processes):
        assert time.monotonic() < deadline, "a scoring process has outlived its trainer"
        time.sleep(0.05)
    while {str(entry.inode()) for entry in os.scandir("/dev/shm")} & set(semaphores):
        assert time.monotonic() < deadline, "a semaphore was left behind"
        time.sleep(0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"trainer.py", "output"}


def test_background_processes_have_a_lower_priority(tmp_path: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ScoringPool(1, background=True) as pool:
        niceness = pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    assert niceness == min(19, before + 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_number_of_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.slow
def test_work_of_a_killed_process_is_done_once_more_alone(tmp_path: Path) -> None:
    pool = ScoringPool(1)
    tasks = [
        PoolTask(pool, be_killed, tmp_path / "once", 1),
        PoolTask(pool, be_killed, tmp_path / "twice", 2),
        PoolTask(pool, abs, -3),
    ]
    # Processes start one after the other, so that the second task was never begun in the pool.
    assert [tasks[0].result(), tasks[2].result()] == [2, 3]
    assert pool.is_broken
    assert PoolTask(pool, abs, -4).result() == 4, "a broken pool takes no work"
    (tmp_path / "twice").write_text("0")
    with pytest.raises(BrokenProcessPool):
        tasks[1].result()
    with pytest.raises(BrokenProcessPool):  # not a third time
        tasks[1].result()
    pool.shutdown()


def test_errors_of_work_are_raised_and_its_arguments_released() -> None:
    with ScoringPool(1) as pool:
        argument = Path("/nowhere")
        task = PoolTask(pool, os.listdir, argument)
        with pytest.raises(FileNotFoundError):
            task.result()
        assert task.done()
        assert not any(argument in getattr(each, "args", ()) for each in gc.get_referrers(argument))
        with pytest.raises(FileNotFoundError):
            task.result()
