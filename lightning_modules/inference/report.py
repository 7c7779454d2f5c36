"""What `separate` prints while it works: a progress bar, a line for each song, and messages.

This file does not import torch, so that mistakes do not wait for it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.find import SongFile
from datamodules.files.info import AudioInfo

Status = Literal["done", "incomplete", "failed", "skipped"]

_NAME_CHARACTERS = 40
# Between two lines of progress in a file or pipe, seconds.
_LINE_SECONDS = 30
_MISSING = "?"


@dataclass(frozen=True)
class Job:
    """A song to separate.

    Attributes:
        song: Its file.
        info: Its header.
        files: Stem -> file, or ``stems`` -> file of all.
    """

    song: SongFile
    info: AudioInfo
    files: Mapping[str, Path]

    @property
    def seconds(self) -> float:
        """Length that the file declares, seconds."""
        return self.info.samples / self.info.sample_rate


class Report:
    """Output of a run.

    Errors and warnings go to stderr. On stdout is a line for each song: the folder or the files
    of its stems, or, with ``as_json``, one JSON object for each song, also for those that failed.

    Args:
        models: Names of the models, for JSON.
        as_json: Write JSON.
        quiet: Show no progress, notes and summary, and on stdout JSON only.
    """

    def __init__(self, models: Sequence[str], as_json: bool = False, quiet: bool = False) -> None:
        self.models, self._as_json, self.quiet = list(models), as_json, quiet
        self._explained = False

    def note(self, text: object) -> None:
        """Print a line on stderr, unless quiet."""
        if not self.quiet:
            tqdm.write(command_line.printable(text), sys.stderr)

    def error(self, song: Path | str, message: str) -> None:
        """Report a song that cannot be separated."""
        tqdm.write(f"error: {command_line.printable(message)}", sys.stderr)
        self._write(song, "failed", message=message)

    def all_failed(self, faults: Mapping[str, str]) -> DataError:
        """Write the JSON of songs none of which can be separated; return the error to raise."""
        for song, message in faults.items():
            self._write(song, "failed", message=message)
        self._explained = True
        return DataError("\nerror: ".join(map(command_line.printable, faults.values())))

    def mistake(self, error: Exception) -> None:
        """Write the JSON of an error that ends the run, unless it is that of ``all_failed``."""
        if self._as_json and not self._explained:
            self._write(None, "failed", message=command_line.describe(error))

    def skipped(self, job: Job) -> None:
        """Report a song whose files exist already."""
        self._write(job.song.path, "skipped", files=job.files, seconds=job.seconds)

    def separated(
        self,
        job: Job,
        *,
        elapsed: float,
        audio_seconds: float,
        gain: float,
        shortfall: str | None,
        shown: Sequence[Path],
    ) -> None:
        """Report a song that is separated.

        Args:
            job: The song.
            elapsed: Time that it took, seconds.
            audio_seconds: Length that was read, seconds.
            gain: Factor against clipping.
            shortfall: What is missing of it.
            shown: Paths to print for a reader.
        """
        if not self._as_json and not self.quiet:
            note = f" (turned down to {gain:.3g} to avoid clipping)" if gain < 1 else ""
            for path in shown:
                tqdm.write(f"{command_line.printable(path)}{note}", sys.stdout)
        if shortfall:
            tqdm.write(f"warning: {command_line.printable(shortfall)}", sys.stderr)
        self._write(
            job.song.path,
            "incomplete" if shortfall else "done",
            files=job.files,
            seconds=audio_seconds,
            elapsed=elapsed,
            gain=gain,
            message=shortfall,
        )

    def _write(
        self,
        song: Path | str | None,
        status: Status,
        files: Mapping[str, Path] | None = None,
        seconds: float | None = None,
        elapsed: float | None = None,
        gain: float | None = None,
        message: str | None = None,
    ) -> None:
        if not self._as_json:
            return
        content: dict[str, Any] = {
            "song": None if song is None else str(song),
            "status": status,
            "files": {stem: str(path) for stem, path in (files or {}).items()},
            "models": self.models,
            "seconds": _rounded(seconds),
            "elapsed_seconds": _rounded(elapsed),
            "real_time_factor": _rounded(elapsed / seconds) if elapsed and seconds else None,
            "gain": _rounded(gain),
            "message": message,
        }
        tqdm.write(json.dumps(content), sys.stdout)
        sys.stdout.flush()


def explain(path: Path, error: Exception) -> str:
    """Message about an error of a song, with its name."""
    text = command_line.describe(error)
    if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError):
        text = "the memory is full; use --jobs 1 or --device cpu, or close other programs"
    return text if str(path) in text else f"{path}: {text}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.6g}")


class Progress:
    """Progress of songs that are separated in several threads.

    A bar in a terminal, and a line every half minute elsewhere, as in the log of a cluster.

    Args:
        jobs: The songs.
        hidden: Show nothing.
    """

    def __init__(self, jobs: Sequence[Job], hidden: bool = False) -> None:
        self.seconds = 0.0
        self._songs, self._begun, self._name = len(jobs), 0, ""
        # Some formats declare no length; then there is no total.
        known = all(job.info.samples for job in jobs)
        self._total = sum(job.seconds for job in jobs) if known else None
        self._start = self._last = time.perf_counter()
        self._lock = threading.Lock()
        in_terminal = sys.stderr.isatty()
        self._lines = not hidden and not in_terminal
        self._bar = _Bar(total=self._total, leave=False, disable=hidden or not in_terminal)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, job: Job) -> None:
        """Name the song that is begun."""
        with self._lock:
            self._begun += 1
            count = f"{self._begun}/{self._songs} " if self._songs > 1 else ""
            self._name = count + command_line.printable(job.song.name)[:_NAME_CHARACTERS]
            self._bar.set_description_str(self._name)

    def advance(self, seconds: float) -> None:
        """Add a number of seconds of audio."""
        with self._lock:
            self.seconds += seconds
            if self._total is not None:
                # Headers may misstate the length.
                self._total = self._bar.total = max(self._total, self.seconds)
            self._bar.update(seconds)
            now = time.perf_counter()
            if self._lines and now - self._last >= _LINE_SECONDS:
                self._last = now
                print(self._line(now - self._start), file=sys.stderr, flush=True)

    def skip(self, seconds: float) -> None:
        """Leave out seconds of a song that failed."""
        with self._lock:
            if self._total is not None:
                self._total = self._bar.total = max(self.seconds, self._total - seconds)
                self._bar.refresh()

    def _line(self, elapsed: float) -> str:
        speed = self.seconds / elapsed
        text = f"{self._name}: {self.seconds:.0f} s"
        if self._total is not None:
            text += f" of {self._total:.0f} s"
        text += f", {speed:.3g} times real time"
        if self._total is not None:
            left = tqdm.format_interval((self._total - self.seconds) / speed)
            text += f", {left} left"
        return text


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar whose rate is a multiple of real time."""

    def __init__(self, total: float | None, **keywords: Any) -> None:
        form = "{desc}: {n:.0f} s [{elapsed}, {speed}]"
        if total is not None:
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s "
            form += "[{elapsed}<{remaining}, {speed}]"
        super().__init__(
            total=total, desc="separating", bar_format=form, dynamic_ncols=True, **keywords
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """Values of the format."""
        values = dict(super().format_dict)
        rate = values["rate"] or (values["n"] / values["elapsed"] if values["elapsed"] else 0)
        return {**values, "speed": f"{rate:.3g}x" if rate else _MISSING}
