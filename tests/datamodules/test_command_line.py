"""What all command lines share; tests/test_mistakes.py has it at work in each of them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

from datamodules import command_line
from datamodules.errors import DataError


def raising(error: BaseException) -> int:
    raise error


def test_status_of_the_work_and_of_what_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(lambda: 1) == 1
    assert command_line.run(lambda: raising(DataError("a: is b; do c"))) == 2
    assert command_line.run(lambda: Path("gone").stat().st_size) == 2
    assert command_line.run(lambda: raising(KeyboardInterrupt()), "stopped; go on by e") == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: a: is b; do c",
        "error: gone: No such file or directory; check the path, and who may read and write it",
        "",
        "stopped; go on by e",
    ]
    with pytest.raises(TypeError, match="a fault of the program"):
        command_line.run(lambda: raising(TypeError("a fault of the program")))


def test_errors_of_libraries_say_what_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command_line.run(lambda: json.loads("{")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: JSONDecodeError: Expecting property name")
    assert line.endswith("(with STEMLAB_TRACEBACK=1 it says where)")
    monkeypatch.setenv("STEMLAB_TRACEBACK", "1")
    assert command_line.run(lambda: json.loads("{")) == 2
    assert "raw_decode" in capsys.readouterr().err


def test_whole_numbers_from_some_number_on() -> None:
    assert command_line.count()("1") == 1
    assert command_line.count(0)("0") == 0
    for least, text in ((1, "0"), (0, "-1"), (2, "1"), (1, "ten"), (1, "nan"), (1, "1.5")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"from {least} on, found '{text}'"):
            command_line.count(least)(text)


def test_where_files_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("dangling").symlink_to("gone")
    for folder in (".", "new", "new/deep", str(tmp_path / "new")):
        command_line.check_folder(Path(folder), "-o")
        command_line.check_file(Path(folder, "x.json"), "--json")
    assert sorted(os.listdir()) == ["dangling", "file"]
    for folder, culprit in (("file", "file"), ("file/deep", "file"), ("dangling", "dangling")):
        with pytest.raises(DataError, match=f"^-o {folder}: {culprit} is no folder"):
            command_line.check_folder(Path(folder), "-o")
    command_line.check_file(Path("file"), "--json")
    with pytest.raises(DataError, match=r"--json \.: is a folder"):
        command_line.check_file(Path("."), "--json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"^-o new: \. may not be written to"):
        command_line.check_folder(Path("new"), "-o")
