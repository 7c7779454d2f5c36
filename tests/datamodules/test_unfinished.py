"""Temporary folders of processes that end in every way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from datamodules import unfinished
from datamodules.unfinished import remove_leftovers, unfinished_folder

# Waits in an unfinished folder, as a command line that a signal may end.
WAITING = """
import sys, time
from pathlib import Path
from datamodules import command_line
from datamodules.unfinished import unfinished_folder

def wait():
    with unfinished_folder(Path(sys.argv[1])) as folder:
        (folder / "half.wav").touch()
        print("ready", flush=True)
        time.sleep(60)

sys.exit(command_line.run(wait, "stopped"))
"""


def start_waiting(parent: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(parent)],
        env=os.environ | {"PYTHONPATH": str(Path(unfinished.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def raising(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize("error", [None, ValueError(), KeyboardInterrupt(), SystemExit()])
def test_nothing_is_left(tmp_path: Path, error: BaseException | None) -> None:
    def work() -> None:
        with unfinished_folder(tmp_path) as folder:
            assert folder.parent == tmp_path
            assert folder.name.startswith(".")
            (folder / ("long" * 63)).touch()  # any name that its target may have
            (folder / "deep").mkdir()
            if error:
                raising(error)

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert not list(tmp_path.iterdir())


def test_folders_in_use_are_kept(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path) as one, unfinished_folder(tmp_path) as other:
        thread = threading.Thread(target=remove_leftovers, args=(tmp_path,))
        thread.start()
        thread.join()
        assert one.is_dir()
        assert other.is_dir()
        assert one != other


def test_killed_process_leaves_a_folder_that_the_next_call_deletes(tmp_path: Path) -> None:
    with start_waiting(tmp_path) as process:
        remove_leftovers(tmp_path)
        (folder,) = tmp_path.iterdir()
        assert (folder / "half.wav").is_file(), "of a running process"
        process.kill()
    assert folder.is_dir()
    with unfinished_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stopped_process_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with start_waiting(tmp_path) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == "\nstopped\n"
    assert not list(tmp_path.iterdir())


def test_without_locks_only_old_folders_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with unfinished_folder(tmp_path) as folder:
        remove_leftovers(tmp_path)
        assert folder.is_dir()
        os.utime(folder, (time.time() - 2 * 24 * 3600,) * 2)
        remove_leftovers(tmp_path)
        assert not folder.is_dir()


def test_other_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "song.unfinished").mkdir()
    (tmp_path / ".song").mkdir()
    (tmp_path / ".file.unfinished").touch()
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
