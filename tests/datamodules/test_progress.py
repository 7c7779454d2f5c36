"""Progress bars in terminals, and in files and pipes."""

from __future__ import annotations

import io
import sys
import time

import pytest

from datamodules.progress import Bar


def test_lines_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Bar(total=100, desc="song.wav", leave=False, mininterval=0) as bar:
        for _ in range(100):
            now += 1
            bar.update(1)
            bar.set_postfix_str("x")
    assert list(Bar(range(3), leave=True)) == [0, 1, 2]
    found = capsys.readouterr().err
    assert "\r" not in found
    lines = found.splitlines()
    assert [line.partition("|")[0] for line in lines] == [f"song.wav:  {n}%" for n in (30, 60, 90)]


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    with Bar(total=2, desc="song.wav", leave=False, mininterval=0) as bar:
        bar.update(1)
    assert "song.wav:  50%" in screen.getvalue()
    assert screen.getvalue().endswith("\r")
