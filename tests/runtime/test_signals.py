"""Recorded signals, restored handlers and exit statuses."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_modules.runtime import signals
from tests.helpers.command_line import REPOSITORY


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def output_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_drop_output", lambda: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_recorded_and_handlers_are_restored(number: int) -> None:
    before = signal.getsignal(number)
    signals.install_handlers(*signals.STOP)
    signals.install_handlers(*signals.STOP)  # by the command line, then by the callback
    assert signals.received is None
    send(number)
    assert signals.received == number
    assert signals.exit_status() == 128 + number
    signals.restore_handlers()
    assert signals.received is None
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process() -> None:
    signals.install_handlers(*signals.STOP)
    send(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        send(signal.SIGTERM)
    assert end.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_repeated_signals_in_a_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    signals.install_handlers(*signals.STOP)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        send(number)
        assert signals.exit_status() == 75
    signals.restore_handlers()
    signals.install_handlers(signals.CTRL_C)
    send(signal.SIGINT)
    assert signals.exit_status() == 130


def test_ignored_signals() -> None:
    signals.install_handlers(*signals.STOP)
    signals.ignore(*signals.STOP)
    for number in signals.STOP:
        send(number)
    assert signals.received is None
    signals.restore_handlers()


def test_nohup_keeps_hang_ups_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals.install_handlers(*signals.STOP)
        send(signal.SIGHUP)
        assert signals.received is None
        signals.restore_handlers()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("output", ["terminal", "pipe"])
def test_a_process_prints_on_after_its_terminal_is_closed(output: str, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lightning_modules.runtime import signals\n"
        "signals.install_handlers(signals.HANG_UP)\n"
        "Path('ready').touch()\n"
        "while signals.received is None: time.sleep(0.01)\n"
        "time.sleep(0.1)\n"
        "print('stopped', flush=True)\n"
        "print('stopped', file=sys.stderr, flush=True)\n"
        "Path('saved').touch()\n"
    )
    ours, theirs = pty.openpty() if output == "terminal" else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 0
    assert (tmp_path / "saved").exists()


def test_a_process_outlives_the_readers_of_its_output(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lightning_modules.runtime import signals\n"
        "signals.outlive_readers()\n"
        "print('first', flush=True)\n"
        "sys.stdin.read()\n"
        "for _ in range(9): print('lost' * 9999, flush=True)\n"
        "print('still read', file=sys.stderr)\n"
        "Path('saved').touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == "still read\n"
    assert process.wait(10) == 0
    assert (tmp_path / "saved").exists()
