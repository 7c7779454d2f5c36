"""Checks of songs before the first is separated: the faults of all are reported at once.

This file does not import torch at its start, so that mistakes do not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.find import SongFile
from datamodules.files.info import AudioInfo
from datamodules.files.writing import check_room
from lightning_modules.inference.encoding import Encoding
from lightning_modules.inference.report import Job, Report, explain


def check_songs(
    songs: Mapping[SongFile, AudioInfo], check: Callable[[SongFile, AudioInfo], None]
) -> tuple[dict[SongFile, AudioInfo], dict[str, str]]:
    """Apply a check that raises to songs; return those that pass, and path -> fault of others."""
    passed, faults = {}, {}
    for song, info in songs.items():
        try:
            check(song, info)
            passed[song] = info
        except (OSError, ValueError) as error:
            faults[str(song.path)] = explain(song.path, error)
    return passed, faults


def check_place(path: Path) -> None:
    """Raise unless a file can have this name."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            raise DataError(f"{path} is a folder, expected a file or nothing; give another -o")
        path.lstat()  # raises if the name is too long for the disk
    command_line.check_folder(path.parent, "its stems go to")


def report_faults(faults: Mapping[str, str], remaining: int, report: Report) -> int:
    """Report all faults and return their number; raise if no songs remain."""
    if not remaining:
        raise report.all_failed(faults)
    for path, fault in faults.items():
        report.error(path, fault)
    if faults:
        others = f"the other {remaining} songs" if remaining > 1 else "the other song"
        report.note(f"{len(faults)} of the inputs cannot be separated; {others} will be")
    return len(faults)


def leave_out_done(jobs: Sequence[Job], report: Report) -> list[Job]:
    """Return the songs some of whose files are missing; report the others."""
    done = [job for job in jobs if all(path.is_file() for path in job.files.values())]
    if done:
        report.note(f"{len(done)} of {len(jobs)} songs are already done")
    for job in done:
        report.skipped(job)
    return [job for job in jobs if job not in done]


def check_writable(
    jobs: Sequence[Job], output: Path, encoding: Encoding, stems: int, replace: bool
) -> None:
    """Check that the files of songs, not none, can be written.

    Args:
        jobs: The songs.
        output: Folder of the files.
        encoding: Format of the files.
        stems: Number of stems of each song.
        replace: Whether files that exist are replaced.

    Raises:
        DataError: The disk is too small.
        FileExistsError: A file exists and is not to be replaced.
    """
    from lightning_modules.inference.stem_files import check_free, temporary_size

    paths = [path for job in jobs for path in job.files.values()]
    if not replace:
        check_free(paths)
    infos = [job.info for job in jobs]
    needed = sum(encoding.size(info, stems) for info in infos)
    needed += max(temporary_size(info, stems, encoding) for info in infos)
    freed = sum(path.stat().st_size for path in paths if path.is_file())
    others = f" and those of {len(jobs) - 1} more need" if len(jobs) > 1 else " need"
    check_room(output, needed - freed, f"{jobs[0].song.path}: its stems{others}")
