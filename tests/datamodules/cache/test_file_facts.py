"""The cache of file facts: valid for one state of a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from datamodules.cache import file_facts
from datamodules.cache.file_facts import FileFacts
from datamodules.errors import DataError
from datamodules.files.state import State, check_same, state


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat files that were just written as settled."""
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_text("one")
    return path


def files_read(store: Path, *paths: Path, fact: str = "text") -> list[str]:
    """Names of the files that a new process reads to know their text; checks the texts."""
    read = []

    def find(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    facts = FileFacts(store)
    known, faults = facts.look_up(fact, find, paths, "reading", False)
    assert not faults
    assert {path: each.value for path, each in known.items()} == {p: p.read_text() for p in paths}
    return read


def test_a_fact_is_determined_once(tmp_path: Path, path: Path) -> None:
    store = tmp_path / "cache" / "facts.jsonl"
    assert files_read(store, path, path) == ["a.wav"]
    assert files_read(store, path) == []
    assert files_read(store, path, fact="another") == ["a.wav"]
    assert files_read(store, path) == files_read(store, path, fact="another") == []


def rewrite(path: Path) -> None:
    path.write_text("two more")


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def rewrite_and_restore_time(path: Path) -> None:
    """Another content of the same size and modification time."""
    before = path.stat()
    time.sleep(0.02)  # longer than a tick of the kernel's file clock
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("b.wav")
    other.write_text("two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [rewrite, touch, rewrite_and_restore_time, replace])
def test_a_changed_file_is_read_again(tmp_path: Path, path: Path, change: Any) -> None:
    store = tmp_path / "facts.jsonl"
    files_read(store, path)
    change(path)
    assert files_read(store, path) == ["a.wav"]
    assert files_read(store, path) == []


def test_recently_changed_files_are_not_cached(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the file system's clock cannot be told apart."""
    monkeypatch.undo()
    store = tmp_path / "facts.jsonl"
    assert files_read(store, path) == ["a.wav"]
    assert files_read(store, path) == ["a.wav"]
    assert state(path).changed_ns == 0
    latest = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: latest + 3_000_000_000)
    assert state(path).changed_ns == path.stat().st_ctime_ns
    assert files_read(store, path) == ["a.wav"]
    assert files_read(store, path) == []


def test_damaged_lines_are_ignored(tmp_path: Path, path: Path) -> None:
    store = tmp_path / "facts.jsonl"
    files_read(store, path)
    line = store.read_bytes()
    for damaged in (
        line[:-10],  # cut off by a kill
        line[:20] + b"x" + line[21:],
        line.replace(b'"one"', b'"two"'),  # valid JSON of mixed lines
        b"nonsense\n",
        b"\n\n",
    ):
        store.write_bytes(damaged)
        assert files_read(store, path) == ["a.wav"]
        assert files_read(store, path) == [], "a line after a damaged one is read"


FORGED = [
    "[]",
    "3",
    "null",
    "[" * 100_000,
    '{"PATH": 3}',
    '{"PATH": [[1, 2, 3, 4]]}',
    '{"PATH": [[1, 2, 3], {"text": "two"}]}',
    '{"PATH": [[1, 2, 3, 4], ["text"]]}',
    '{"PATH": [{}, {"text": "two"}]}',
    '{"PATH": ["STATE", {"text": "two"}]}',
    '{"PATH": [STATE, {"text": 3}]}',
    '{"PATH": [STATE, {"text": null}]}',
    '{"PATH": [STATE, {"text": ["two"]}]}',
]


@pytest.mark.parametrize("forged", FORGED, ids=range(len(FORGED)))
def test_forged_lines_are_ignored(tmp_path: Path, path: Path, forged: str) -> None:
    """Their checksums are right."""
    store = tmp_path / "facts.jsonl"
    content = forged.replace("PATH", str(path)).replace("STATE", json.dumps(state(path))).encode()
    store.write_bytes(b"%08x %s\n" % (zlib.crc32(content), content))
    facts = FileFacts(store)
    known, faults = facts.look_up(
        "text",
        Path.read_text,
        [path],
        "reading",
        False,
        is_valid=lambda value: isinstance(value, str),
    )
    assert not faults
    assert known[path].value == "one"
    list(facts.paths("text"))


def test_a_line_is_read_when_it_is_complete(tmp_path: Path, path: Path) -> None:
    store = tmp_path / "facts.jsonl"
    files_read(store, path)
    line = store.read_bytes()
    store.write_bytes(line[:30])
    facts = FileFacts(store)
    assert list(facts.paths("text")) == []
    with store.open("ab") as file:
        file.write(line[30:])
    assert list(facts.paths("text")) == [(str(path), "one")]
    store.unlink()
    assert list(facts.paths("text")) == []


def test_errors_are_returned_by_file_and_not_cached(tmp_path: Path, path: Path) -> None:
    facts = FileFacts(tmp_path / "facts.jsonl")

    def find(path: Path) -> str:
        raise DataError(f"{path}: is bad")

    gone = tmp_path / "gone.wav"
    for _ in range(2):
        known, faults = facts.look_up("text", find, [path, gone], "reading", False)
        assert known == {}
        assert str(faults[path]) == f"{path}: is bad"
        assert "cannot be read" in str(faults[gone])
    assert not facts.file.exists()


def test_unwritable_store_is_ignored(tmp_path: Path, path: Path) -> None:
    store = tmp_path / "file" / "facts.jsonl"
    store.parent.write_text("a file where the folder should be")
    assert files_read(store, path) == files_read(store, path) == ["a.wav"]


def test_processes_append_complete_lines(tmp_path: Path) -> None:
    store = tmp_path / "facts.jsonl"
    for process in "ab":
        for number in range(40):
            (tmp_path / f"{process}{number}").write_text("text")
    program = (
        "import sys; from pathlib import Path; from datamodules.cache import file_facts\n"
        "from datamodules.files import state; state._SETTLED_NS = -(10**18)\n"
        "for path in map(Path, sys.argv[2:]):\n"
        "    facts = file_facts.FileFacts(Path(sys.argv[1]))\n"
        "    facts.look_up('text', Path.read_text, [path], '', False)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(file_facts.__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(store), *map(str, tmp_path.glob(f"{name}[0-9]*"))],
            env=environment,
        )
        for name in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert files_read(store, *tmp_path.glob("[ab][0-9]*")) == []
    assert len([line for line in store.read_bytes().splitlines() if line]) == 80


def test_check_same_allows_links_but_no_changes(path: Path) -> None:
    before = state(path)
    os.link(path, path.with_name("link"))
    check_same(path, before)
    for change in (touch, rewrite, replace, os.unlink):
        before = state(path)
        change(path)
        with pytest.raises(DataError, match=r"a\.wav: was removed, replaced or changed"):
            check_same(path, before)
    shutil.copy(path.with_name("link"), path)
    assert state(path) == State.of(path.stat())
