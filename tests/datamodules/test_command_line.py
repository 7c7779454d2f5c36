"""Shared by all command lines; tests/test_mistakes.py tests each command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules import command_line
from datamodules.errors import DataError


def raising(error: BaseException) -> int:
    raise error


def test_exit_status_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(lambda: 1) == 1
    assert command_line.run(lambda: raising(DataError("a: is b; do c"))) == 2
    assert command_line.run(lambda: Path("gone").stat().st_size) == 2
    assert command_line.run(lambda: raising(KeyboardInterrupt()), "stopped; resume by e") == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: a: is b; do c",
        "error: gone: No such file or directory; check the path and its permissions",
        "",
        "stopped; resume by e",
    ]


@pytest.mark.parametrize(
    "error",
    [TypeError("a\nbug"), KeyError("a"), RuntimeError("b"), AssertionError(), MemoryError()],
)
def test_unexpected_errors_leave_their_traceback_in_a_file(
    error: Exception,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert command_line.run(lambda: raising(error)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert line.startswith(f"error: {type(error).__name__}: ")
    assert line.endswith(f"(unexpected; report it with the traceback in {file})")
    assert "in raising" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert command_line.run(lambda: raising(error)) == 2
    assert "set STEMLAB_TRACEBACK=1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["datamodules.cache show", "datamodules.convert --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_into_a_pipe_that_nobody_reads_ends_quietly(
    command: str, unbuffered: str, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        env={**os.environ, "STEMLAB_CACHE": str(tmp_path), "PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_a_command(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(lambda: raising_signal(number), "stopped") == 128 + number
    assert capsys.readouterr().err == "\nstopped\n"
    assert signal.getsignal(number) == signal.SIG_DFL
    signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        assert command_line.run(lambda: raising_signal(number)) == 0
    finally:
        signal.signal(number, signal.SIG_DFL)


def raising_signal(number: signal.Signals) -> int:
    signal.raise_signal(number)
    return 0


def test_library_errors_show_class_and_traceback_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command_line.run(lambda: json.loads("{")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: JSONDecodeError: Expecting property name")
    assert line.endswith("(set STEMLAB_TRACEBACK=1 to see the traceback)")
    monkeypatch.setenv("STEMLAB_TRACEBACK", "1")
    assert command_line.run(lambda: json.loads("{")) == 2
    assert "raw_decode" in capsys.readouterr().err


def test_count_refuses_numbers_below_its_bound() -> None:
    assert command_line.count()("1") == 1
    assert command_line.count(0)("0") == 0
    for least, text in ((1, "0"), (0, "-1"), (2, "1"), (1, "ten"), (1, "nan"), (1, "1.5")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"at least {least}, found '{text}'"):
            command_line.count(least)(text)


def test_check_folder_and_check_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("dangling").symlink_to("gone")
    for folder in (".", "new", "new/deep", str(tmp_path / "new")):
        command_line.check_folder(Path(folder), "-o")
        command_line.check_file(Path(folder, "x.json"), "--json")
    assert sorted(os.listdir()) == ["dangling", "file"]
    for folder, culprit in (("file", "file"), ("file/deep", "file"), ("dangling", "dangling")):
        with pytest.raises(DataError, match=f"^-o {folder}: {culprit} is not a folder"):
            command_line.check_folder(Path(folder), "-o")
    command_line.check_file(Path("file"), "--json")
    with pytest.raises(DataError, match=r"--json \.: is a folder"):
        command_line.check_file(Path("."), "--json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"^-o new: \. is not writable"):
        command_line.check_folder(Path("new"), "-o")
