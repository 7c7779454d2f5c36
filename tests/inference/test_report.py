"""Progress of songs, in a terminal and in a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from datamodules.files.find import SongFile
from datamodules.files.info import AudioInfo
from lightning_modules.inference.report import Job, Progress, Report

RATE = 1000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def jobs(*seconds: float) -> list[Job]:
    return [
        Job(
            SongFile(Path(f"{n}.wav"), "", f"song {n}"), AudioInfo(round(s * RATE), RATE, 2, ""), {}
        )
        for n, s in enumerate(seconds)
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_lines_in_a_file(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = jobs(100, 300)
    with Progress([first, second]) as progress:
        for elapsed, seconds in ((20, 50), (31, 50), (35, 50), (70, 130)):
            clock[0] = elapsed
            if seconds == 130 or elapsed == 20:
                progress.begin(second if seconds == 130 else first)
            progress.advance(seconds)
    assert capsys.readouterr().err.splitlines() == [
        "1/2 song 0: 100 s of 400 s, 3.23 times real time, 01:33 left",
        "2/2 song 1: 280 s of 400 s, 4 times real time, 00:30 left",
    ]
    assert progress.seconds == 280


@pytest.mark.parametrize("hidden", [False, True])
def test_bar_in_a_terminal(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    first, second = jobs(100, 300)
    with Progress([first, second], hidden) as progress:
        progress.begin(first)
        progress.advance(120)  # more than the header declares
        progress.begin(second)
        Report([]).error("x.wav", "x.wav: is bad")
        progress.skip(300)
    text = terminal.getvalue()
    assert "error: x.wav: is bad\n" in text
    if hidden:
        assert text.count("song") == 0
        return
    assert "1/2 song 0:" in text
    assert "2/2 song 1:  30%|" in text
    assert " 120/400 s [" in text
    assert "120/120 s [" in text, "a failed song is left out"
    # The bar is cleared before a line, and at the end.
    before = text.partition("error: ")[0]
    assert before.endswith("\r")
    assert before.rstrip("\r").endswith(" ")
    assert text.endswith("\r")


def test_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    (song,) = jobs(0)
    with Progress([song]) as progress:
        progress.begin(song)
        progress.advance(3)
        progress._bar.refresh()
    assert "song 0: 3 s [" in terminal.getvalue()
    assert "%" not in terminal.getvalue()
