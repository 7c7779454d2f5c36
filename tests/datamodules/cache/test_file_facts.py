"""The ledger: what is remembered holds for one state of a file, and for no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from datamodules.cache import file_facts
from datamodules.cache.file_facts import Ledger
from datamodules.errors import DataError
from datamodules.files.state import State, check_same, state


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as old enough to be relied on."""
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_text("one")
    return path


def looked_into(book: Path, *paths: Path, fact: str = "text") -> list[str]:
    """What a fresh process must look into to know the text of the files; checks what it knows."""
    read = []

    def find(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    facts = Ledger(book)
    facts.refresh()
    known, faults = facts.find_out(fact, find, paths, "reading", False)
    assert not faults
    assert {path: each.value for path, each in known.items()} == {p: p.read_text() for p in paths}
    return read


def test_a_fact_is_found_out_once(tmp_path: Path, path: Path) -> None:
    book = tmp_path / "cache" / "ledger.jsonl"
    assert looked_into(book, path, path) == ["a.wav"]
    assert looked_into(book, path) == []
    assert looked_into(book, path, fact="another") == ["a.wav"]
    assert looked_into(book, path) == looked_into(book, path, fact="another") == []


def rewrite(path: Path) -> None:
    path.write_text("two more")


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def rewrite_behind_the_clock(path: Path) -> None:
    """Another content of the same size and time, as a careful restorer of times leaves it."""
    before = path.stat()
    time.sleep(0.02)  # a tick of the kernel's clock, in which it notes changes
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("b.wav")
    other.write_text("two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [rewrite, touch, rewrite_behind_the_clock, replace])
def test_a_file_in_another_state_is_looked_into_again(
    tmp_path: Path, path: Path, change: Any
) -> None:
    book = tmp_path / "ledger.jsonl"
    looked_into(book, path)
    change(path)
    assert looked_into(book, path) == ["a.wav"]
    assert looked_into(book, path) == []


def test_what_may_change_without_a_trace_is_not_remembered(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems note changes by the tick: within one, two contents look the same."""
    monkeypatch.undo()
    book = tmp_path / "ledger.jsonl"
    assert looked_into(book, path) == ["a.wav"]
    assert looked_into(book, path) == ["a.wav"]
    assert state(path).changed_ns == 0
    latest = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: latest + 3_000_000_000)
    assert state(path).changed_ns == path.stat().st_ctime_ns
    assert looked_into(book, path) == ["a.wav"]
    assert looked_into(book, path) == []


def test_torn_and_mixed_lines_are_passed_over(tmp_path: Path, path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    looked_into(book, path)
    line = book.read_bytes()
    for damaged in (
        line[:-10],  # torn by a kill
        line[:20] + b"x" + line[21:],
        line.replace(b'"one"', b'"two"'),  # mixed with another, and JSON still
        b"nonsense\n",
        b"\n\n",
    ):
        book.write_bytes(damaged)
        assert looked_into(book, path) == ["a.wav"]
        assert looked_into(book, path) == [], "what is added after a torn line is read"


def test_a_line_still_being_written_is_read_later(tmp_path: Path, path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    looked_into(book, path)
    line = book.read_bytes()
    book.write_bytes(line[:30])
    facts = Ledger(book)
    facts.refresh()
    assert list(facts.paths("text")) == []
    with book.open("ab") as file:
        file.write(line[30:])
    facts.refresh()
    assert list(facts.paths("text")) == [(str(path), "one")]
    book.unlink()
    facts.refresh()
    assert list(facts.paths("text")) == []


def test_faults_are_told_by_file_and_not_remembered(tmp_path: Path, path: Path) -> None:
    facts = Ledger(tmp_path / "ledger.jsonl")

    def find(path: Path) -> str:
        raise DataError(f"{path}: is bad")

    gone = tmp_path / "gone.wav"
    for _ in range(2):
        known, faults = facts.find_out("text", find, [path, gone], "reading", False)
        assert known == {}
        assert str(faults[path]) == f"{path}: is bad"
        assert "cannot be read" in str(faults[gone])
    assert not facts.file.exists()


def test_a_ledger_that_cannot_be_written_costs_time_only(tmp_path: Path, path: Path) -> None:
    book = tmp_path / "file" / "ledger.jsonl"
    book.parent.write_text("a file where the folder should be")
    assert looked_into(book, path) == looked_into(book, path) == ["a.wav"]


def test_processes_add_side_by_side(tmp_path: Path) -> None:
    """Each line whole, whoever writes it when."""
    book = tmp_path / "ledger.jsonl"
    for process in "ab":
        for number in range(40):
            (tmp_path / f"{process}{number}").write_text("text")
    program = (
        "import sys; from pathlib import Path; from datamodules.cache import file_facts\n"
        "from datamodules.files import state; state._SETTLED_NS = -(10**18)\n"
        "for path in map(Path, sys.argv[2:]):\n"
        "    facts = file_facts.Ledger(Path(sys.argv[1]))\n"
        "    facts.find_out('text', Path.read_text, [path], '', False)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(file_facts.__file__).parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(book), *map(str, tmp_path.glob(f"{name}[0-9]*"))],
            env=environment,
        )
        for name in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert looked_into(book, *tmp_path.glob("[ab][0-9]*")) == []
    assert len(book.read_bytes().splitlines()) == 80


def test_a_file_in_use_may_be_linked_but_not_changed(path: Path) -> None:
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
