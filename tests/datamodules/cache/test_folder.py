"""The command that shows and clears the cache."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from datamodules.cache import folder as command
from datamodules.cache.folder import decoded_folder, stored
from datamodules.cache.pcm import decode


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEMLAB_CACHE", str(folder))
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))
    return folder


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-99, 99, (1000, 2)).astype(np.int16)
    soundfile.write(path, noise, 8000)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two data sets with one unique file each, and one file that both have."""
    one, other = write(tmp_path / "one/a.flac", 1), write(tmp_path / "other/b.flac", 2)
    both = write(tmp_path / "one/both.flac", 3)
    copy = tmp_path / "other/both.flac"
    shutil.copy(both, copy)
    decode([one, other, both, copy], progress=False)
    return [one, other, both, copy]


def test_show(files: list[Path], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "decoded" / "stranger").mkdir()
    assert command.main(["show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert [line for line in lines if f"{files[2]}, {files[3]}" in line]
    assert [line for line in lines if "stranger  of an unknown file" in line]
    assert lines[-1].startswith(f"{cache / 'decoded'}: 4 entries, 0.00 GB")
    sizes = {tuple(entry.sources): entry.size for entry in stored()}
    (folder,) = [entry.folder for entry in stored() if entry.sources == [files[0]]]
    assert sizes[(files[0],)] == sum(file.stat().st_size for file in folder.iterdir()) > 4000


def test_show_of_nothing(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert command.main(["show"]) == command.main(["clear", "--yes"]) == 0
    assert "0 entries" in capsys.readouterr().out
    assert not cache.exists()


def test_clear_of_a_root_keeps_entries_of_others(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert command.main(["clear", str(tmp_path / "link"), "--yes"]) == 0
    assert [entry.sources for entry in stored()] == [[files[2], files[3]], [files[1]]]
    files[3].unlink()
    assert command.main(["clear", str(tmp_path / "one"), "--yes"]) == 0
    assert [entry.sources for entry in stored()] == [[files[1]]]
    decode([files[0]], progress=False)
    shutil.rmtree(tmp_path / "one")  # entries of deleted files are deleted too
    assert command.main(["clear", str(tmp_path / "one"), "--yes"]) == 0
    assert [entry.sources for entry in stored()] == [[files[1]]]


def test_resampled_entries_belong_to_the_original_file(tmp_path: Path) -> None:
    path = write(tmp_path / "one/a.flac", 1)
    decoded = decode([path], progress=False)[path].file()
    decode([decoded], progress=False, sample_rate=4000)
    assert [entry.sources for entry in stored()] == [[path], [path]]


def test_clear_deletes_entries_only(files: list[Path], cache: Path) -> None:
    (cache / "demo").mkdir()
    (cache / "decoded" / "stranger").symlink_to(files[0].parent)
    assert command.main(["clear", "--yes"]) == 0
    assert stored() == []
    assert not (cache / "ledger.jsonl").exists()
    assert (cache / "demo").is_dir()
    assert (cache / "decoded" / "stranger").is_symlink(), "a link is not an entry"
    assert all(file.exists() for file in files)


def test_clear_asks(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, left in (("", 3), ("n", 3), (" Y ", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        command.main(["clear"])
        assert len(stored()) == left


def test_clear_without_a_terminal_needs_yes(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert command.main(["clear"]) == 2
    assert "use --yes" in capsys.readouterr().err
    assert len(stored()) == 3


def test_clear_does_not_wait(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(decoded_folder() / ".lock"):
        assert command.main(["clear", "--yes"]) == 2
    assert f"{decoded_folder()}: another process is writing to it" in capsys.readouterr().err
    assert len(stored()) == 3


def test_read_only_cache_is_reported(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert command.main(["clear", "--yes"]) == 2
    assert f"{decoded_folder()}: cannot be cleared (Read-only" in capsys.readouterr().err
