"""Cache of per-file facts (header, content hash, NaN scan), valid while the file is unchanged.

Without it, each start would open all files of a data set, and hash or scan some of them completely.
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
    """A fact about a file, and the state of the file when the fact was determined."""

    state: State
    value: Any


class FileFacts:
    """Facts about files, in an append-only file that processes share.

    Each line is a checksum and a JSON object ``{path: [state, {fact: value}]}``. A line that does
    not match its checksum (cut off by a kill, or mixed with another node's on a network file
    system) is ignored: its facts are determined again.

    Args:
        file: The file, which need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: dict[tuple[str, str], Known] = {}
        self._end = self._inode = 0
        self._lock = Lock()

    def look_up(
        self,
        fact: str,
        determine: Callable[[Path], Any],
        paths: Sequence[Path],
        description: str,
        progress: bool,
        workers: int = 8,
        *,
        is_valid: Callable[[Any], bool] = lambda value: True,
    ) -> tuple[dict[Path, Known], dict[Path, DataError]]:
        """Look up a fact about each file; determine the facts that are unknown.

        Args:
            fact: Name of the fact.
            determine: Returns the fact about a file, as a JSON value, or raises a ``DataError``.
            paths: The files.
            description: Label of the progress bar.
            progress: Show the bar, if it takes more than a second.
            workers: Number of threads.
            is_valid: Whether a stored value can be a value of this fact; otherwise it is determined
                again.

        Returns:
            File -> state and value, and file -> error.
        """
        self._read_new_lines()
        known: dict[Path, Known] = {}
        faults: dict[Path, DataError] = {}
        unknown: dict[Path, State] = {}
        for path in paths:
            try:
                current = state(path)
            except DataError as fault:
                faults[path] = fault
                continue
            stored = self._known.get((_name(path), fact))
            unchanged = stored and stored.state == current and current.changed_ns
            if stored and unchanged and is_valid(stored.value):
                known[path] = stored
            else:
                unknown[path] = current

        def determine_one(path: Path) -> None:
            try:
                known[path] = Known(unknown[path], determine(path))
            except DataError as fault:
                faults[path] = fault

        try:
            for_each(determine_one, list(unknown), description, progress, workers)
        finally:  # after Ctrl-C too
            self._append(fact, {_name(path): known[path] for path in unknown if path in known})
        return known, faults

    def paths(self, fact: str) -> Iterator[tuple[str, Any]]:
        """Path and value of all files of which a fact is known, even if they have changed since."""
        self._read_new_lines()
        for (path, name), known in self._known.items():
            if name == fact:
                yield path, known.value

    def _read_new_lines(self) -> None:
        """Read the lines that this and other processes have appended since the last call."""
        with self._lock:
            try:
                with self.file.open("rb") as file:
                    status = os.fstat(file.fileno())
                    if status.st_ino != self._inode or status.st_size < self._end:  # another file
                        self._known.clear()
                        self._inode, self._end = status.st_ino, 0
                    file.seek(self._end)
                    content = file.read()
            except OSError:
                self._known.clear()
                self._inode = self._end = 0
                return
            complete = content.rfind(b"\n") + 1  # the rest is still being written, or cut off
            self._end += complete
            for line in content[:complete].splitlines():
                self._known.update(_parse(line))

    def _append(self, fact: str, known: dict[str, Known]) -> None:
        # A file that changed too recently may change again unnoticed.
        settled = {path: entry for path, entry in known.items() if entry.state.changed_ns}
        if not settled:
            return
        facts = {path: [entry.state, {fact: entry.value}] for path, entry in settled.items()}
        content = json.dumps(facts).encode()
        # A single write keeps the line in one piece. The newline before it ends a line that was cut
        # off.
        line = b"\n%08x %s\n" % (zlib.crc32(content), content)
        with suppress(OSError):  # without a writable cache only time is lost
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab", buffering=0) as file:
                file.write(line)


def _name(path: Path) -> str:
    name = str(path)
    return name if name.startswith("/") else os.path.abspath(name)  # abspath is slow


def _parse(line: bytes) -> dict[tuple[str, str], Known]:
    """(path, fact) -> state and value; nothing for a line that this class did not write."""
    checksum, _, content = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(content):
        return {}
    try:
        return {
            (path, fact): Known(State(*values), value)
            for path, (values, facts) in json.loads(content).items()
            for fact, value in facts.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
