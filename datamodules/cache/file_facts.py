"""What was found out of files, remembered for as long as they stay as they are.

A start of ten thousand tracks must not open fifty thousand files, nor hash those that were
hashed before. What is remembered of a file holds for one state of it; in any other state the
file is looked into again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.files.state import State, state
from datamodules.parallel import for_each


class Known(NamedTuple):
    """What is known of a file, and of which state of it."""

    state: State
    value: Any


class Ledger:
    """Facts of files by path and state, in a file that is only ever added to.

    Each line is a checksum and a JSON object ``{path: [state, {fact: value}]}``. A line that does
    not fit its checksum (torn by a kill, or mixed with another node's on a network file system) is
    passed over: its facts are found out again.

    Args:
        file: Where they are kept, whether it is there or not yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._facts: dict[str, tuple[State, dict[str, Any]]] = {}
        self._new: dict[str, tuple[State, dict[str, Any]]] = {}
        self._end = self._inode = 0
        self._lock = Lock()

    def find_out(
        self,
        fact: str,
        find: Callable[[Path], Any],
        paths: Sequence[Path],
        description: str,
        progress: bool,
        workers: int = 8,
    ) -> tuple[dict[Path, Known], dict[Path, DataError]]:
        """Tell a fact of many files, finding it out of those of which it is not known.

        Args:
            fact: Name of the fact.
            find: Finds it out of a file: a value of JSON's types, not None. A ``DataError`` from
                it is the file's fault.
            paths: The files.
            description: Label of the progress bar.
            progress: Show the bar, if it takes more than a second.
            workers: Number of threads.

        Returns:
            File -> state and value, and file -> fault.
        """
        known, faults, unknown = {}, {}, {}
        for path in paths:
            name = _name(path)
            try:
                now = state(name)
            except DataError as fault:
                faults[path] = fault
                continue
            value = self._get(name, now, fact)
            if value is None:
                unknown[path] = now
            else:
                known[path] = Known(now, value)

        def look(item: tuple[Path, State]) -> None:
            path, now = item
            try:
                value = find(path)
            except DataError as fault:
                faults[path] = fault
            else:
                known[path] = Known(now, value)
                self._note(path, now, fact, value)

        try:
            for_each(look, list(unknown.items()), description, progress, workers)
        finally:
            self._save()
        return known, faults

    def refresh(self) -> None:
        """Take in what other processes have added since."""
        with self._lock:
            try:
                content = self._read_on()
            except OSError:
                content = b""
                self._facts.clear()
                self._inode = self._end = 0
            whole = content.rfind(b"\n") + 1  # what follows is torn, or still being written
            self._end += whole
            for line in content[:whole].splitlines():
                for path, (state, facts) in _parse(line).items():
                    self._add(self._facts, path, State(*state), facts)

    def _read_on(self) -> bytes:
        with self.file.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._end:  # another file
                self._facts.clear()
                self._inode, self._end = status.st_ino, 0
            file.seek(self._end)
            return file.read()

    def _get(self, name: str, state: State, fact: str) -> Any:
        known = self._facts.get(name)
        return known[1].get(fact) if known and known[0] == state and state.changed_ns else None

    def paths(self, fact: str) -> Iterator[tuple[str, Any]]:
        """Go through all files of which a fact is known, in whatever state.

        Args:
            fact: Name of the fact.

        Yields:
            Path and value.
        """
        for path, (_, facts) in self._facts.items():
            if fact in facts:
                yield path, facts[fact]

    def _note(self, path: Path, state: State, fact: str, value: Any) -> None:
        if not state.changed_ns:
            return  # it may change without a trace
        with self._lock:
            for facts in (self._facts, self._new):
                self._add(facts, _name(path), state, {fact: value})

    def _save(self) -> None:
        """Write down what is new. A ledger that cannot be written costs time, nothing else."""
        with self._lock:
            new, self._new = self._new, {}
        if not new:
            return
        content = json.dumps(new).encode()
        line = b"%08x %s\n" % (zlib.crc32(content), content)
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab+") as file:
                with suppress(ImportError, OSError):
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX)
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = b"\n" + line
                file.write(line)

    @staticmethod
    def _add(
        facts: dict[str, tuple[State, dict[str, Any]]],
        path: str,
        state: State,
        new: dict[str, Any],
    ) -> None:
        known = facts.get(path)
        if known and known[0] == state:
            known[1].update(new)
        else:
            facts[path] = (state, new)


def _name(path: Path) -> str:
    name = str(path)
    return name if name.startswith("/") else os.path.abspath(name)  # the first way for its speed


def _parse(line: bytes) -> dict[str, Any]:
    checksum, _, content = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(content):
        return {}
    parsed: dict[str, Any] = json.loads(content)
    return parsed
