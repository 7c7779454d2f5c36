"""Recorded signals, restored handlers and exit statuses."""

from __future__ import annotations

import os
import signal

import pytest

from lightning_modules.runtime import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
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
