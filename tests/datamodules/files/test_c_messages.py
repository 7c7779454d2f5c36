"""C libraries print nothing on the terminal while they decode."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from datamodules.files import audio, c_messages
from tests.helpers.audio_files import convert, damage, make_noise, write


def print_in_c(text: str) -> None:
    library = ctypes.CDLL(None)
    name = "__stderrp" if sys.platform == "darwin" else "stderr"
    library.fputs(text.encode(), ctypes.c_void_p.in_dll(library, name))


def test_messages_are_hidden_and_those_of_python_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    with c_messages.hidden():
        print_in_c("hidden")
        os.write(2, b"shown ")
    print_in_c("again")
    assert capfd.readouterr().err == "shown again"


def test_threads_overlap(capfd: pytest.CaptureFixture[str]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with c_messages.hidden():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with c_messages.hidden():
        pass
    print_in_c("hidden")  # the other thread still hides
    pid = os.fork()
    if pid == 0:
        print_in_c("child ")  # it has no such thread
        os._exit(0)
    os.waitpid(pid, 0)
    leave.set()
    thread.join()
    print_in_c("parent")
    assert capfd.readouterr().err == "child parent"


def test_libmpg123_prints_nothing(tmp_path: Path) -> None:
    path = damage(convert(write(tmp_path / "a.wav", make_noise(5)), tmp_path / "a.mp3"))
    alone = f"import soundfile; soundfile.SoundFile({str(path)!r}).read()"
    loud = subprocess.run([sys.executable, "-c", alone], capture_output=True, check=False)
    assert b"libmpg123" in loud.stderr or b"resync" in loud.stderr
    code = (
        "from datamodules.files import audio; from datamodules.errors import DataError\n"
        f"try: audio.read({str(path)!r})\n"
        "except DataError: print('damaged')"
    )
    quiet = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert quiet.stdout == b"damaged\n"
    assert quiet.stderr == b""
    assert audio.open_sound_file(path).format == "MP3"
