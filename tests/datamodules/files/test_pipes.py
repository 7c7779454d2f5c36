"""Songs from pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.files.song import inspect_song, open_song
from tests.helpers.audio_files import convert, make_noise, write


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are deleted at the end of the process, which test runners may kill."""
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))


def feed(pipe: Path, content: bytes) -> threading.Thread:
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_bytes, args=[content])
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a"])
def test_a_pipe_is_read_for_its_header_and_several_times_for_its_samples(
    suffix: str, tmp_path: Path
) -> None:
    noise = make_noise()
    source = write(tmp_path / "a.wav", noise)
    path = source if suffix == "wav" else convert(source, tmp_path / f"a.{suffix}")
    expected = np.concatenate(list(open_song(path).blocks), 1)
    writer = feed(tmp_path / "pipe", path.read_bytes())
    assert inspect_song(tmp_path / "pipe") == inspect_song(path)
    for _ in range(2):
        blocks = open_song(tmp_path / "pipe").blocks
        assert np.array_equal(np.concatenate(list(blocks), 1), expected)
    writer.join()


@pytest.mark.parametrize(("content", "fault"), [(b"", "is empty"), (b"text" * 99, "not audio")])
def test_errors_name_the_pipe(content: bytes, fault: str, tmp_path: Path) -> None:
    writer = feed(tmp_path / "pipe", content)
    with pytest.raises(DataError, match=fault) as found:
        open_song(tmp_path / "pipe")
    assert str(found.value).startswith(f"{tmp_path / 'pipe'}: ")
    assert "stemlab-pipe" not in str(found.value)
    writer.join()


def test_standard_input_is_copied_and_the_copy_is_deleted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", make_noise())
    code = (
        "import os, pathlib; from datamodules.files.song import open_song\n"
        "song = open_song('/dev/stdin')\n"
        "assert list(pathlib.Path(os.environ['TMPDIR']).iterdir())\n"
        "print(sum(block.shape[1] for block in song.blocks), song.shortfall())"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=path.read_bytes(),
        capture_output=True,
        check=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert done.stdout.split() == [b"16000", b"None"]
    assert not list(folder.iterdir())
