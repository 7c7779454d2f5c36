"""Signals are noted, and what they mean for the end of a process."""

from __future__ import annotations

import os
import signal

import pytest

from lightning_modules.runtime import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_noted_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    signals.install_handlers(*signals.STOP)
    signals.install_handlers(*signals.STOP)  # as the command line does, and then the callback
    assert signals.received is None
    send(number)
    assert signals.received == number
    assert signals.exit_status() == 128 + number
    signals.restore_handlers()
    assert signals.received is None
    assert signal.getsignal(number) is before


def test_a_second_one_ends_at_once() -> None:
    signals.install_handlers(*signals.STOP)
    send(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        send(signal.SIGTERM)
    assert end.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_slurm_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    signals.install_handlers(*signals.STOP)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        send(number)
        assert signals.exit_status() == 75
    signals.restore_handlers()
    signals.install_handlers(signals.CTRL_C)
    send(signal.SIGINT)
    assert signals.exit_status() == 130


def test_ignored() -> None:
    signals.install_handlers(*signals.STOP)
    signals.ignore(*signals.STOP)
    for number in signals.STOP:
        send(number)
    assert signals.received is None
    signals.restore_handlers()
