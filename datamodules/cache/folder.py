"""The cache: where it is, what an entry of it is, and who may write to it.

``python -m datamodules.cache show`` tells what is in it and of which files it was made;
``python -m datamodules.cache clear [ROOT]`` deletes what was made of files under ROOT, or all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datamodules import command_line
from datamodules.cache.file_facts import Ledger
from datamodules.errors import DataError
from datamodules.files.audio import AudioInfo

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
_LEFTOVER_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Where decoded tracks are kept: ``$STEMLAB_CACHE``, else ``stemlab`` in the user's cache."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("STEMLAB_CACHE") or Path(user_cache, "stemlab")).expanduser()


def decoded_folder() -> Path:
    """Where the entries of the cache lie."""
    return cache_folder() / "decoded"


def ledger() -> Ledger:
    """What is known of files, with what other processes have found out since."""
    facts = _ledger_in(cache_folder())
    facts.refresh()
    return facts


@cache
def _ledger_in(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.jsonl")


class Decoded(NamedTuple):
    """An entry of the cache.

    Attributes:
        folder: The folder.
        infos: Name of each WAV file in it, without suffix -> what its header says. A .stem.mp4
            has a file per stream, any other file one called ``audio``.
    """

    folder: Path
    infos: dict[str, AudioInfo]

    def file(self, name: str = "audio") -> Path:
        """Tell where a file is.

        Args:
            name: Name of it, without suffix.

        Returns:
            The file.
        """
        return self.folder / f"{name}.wav"


def read_entry(folder: Path) -> Decoded | None:
    """Compare an entry with its manifest.

    Args:
        folder: The entry's folder, whether it is there or not.

    Returns:
        The entry, if it is whole.
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        for name, facts in files.items():
            if os.stat(folder / f"{name}.wav").st_size != facts.pop("bytes"):
                return None
        return Decoded(folder, {name: AudioInfo(**facts) for name, facts in files.items()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


@contextmanager
def cache_lock(progress: bool = False, wait: bool = True) -> Iterator[None]:
    """Let one process write to the cache at a time; all others share its work.

    Args:
        progress: Tell that another one is waited for.
        wait: Wait for it; otherwise it is an error.

    Raises:
        DataError: Another process is writing, and is not to be waited for.
    """
    folder = decoded_folder()
    with (folder / ".lock").open("w") as lock:
        # Where the system has no such locks every process decodes for itself: slow, but right.
        with suppress(ImportError, OSError):
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise DataError(
                        f"{folder}: another process is writing here, nobody was expected to; wait "
                        "for it, or stop it"
                    ) from None
                if progress:
                    print(
                        f"Waiting for another process that decodes into {folder}", file=sys.stderr
                    )
                fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
            with suppress(OSError):
                if leftover.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
                    shutil.rmtree(leftover)
        yield


# ------------------------------------------------------------------ command


class Stored(NamedTuple):
    """What a person wants to know of an entry.

    Attributes:
        folder: Where it lies.
        size: What it takes, bytes.
        sources: Files that it was made of, or would be: all copies that are known.
    """

    folder: Path
    size: int
    sources: list[Path]


def stored() -> list[Stored]:
    """Go through the cache.

    Returns:
        Its entries, also those that are not whole, by their sources.
    """
    if not decoded_folder().is_dir():
        return []
    copies: dict[str, set[Path]] = {}
    for path, content in ledger().paths("content"):
        copies.setdefault(content, set()).add(Path(path))
    sources = {}
    for folder in decoded_folder().iterdir():
        if folder.is_dir() and not folder.is_symlink():
            # Resampled entries have the rate behind the content.
            sources[folder] = copies.get(folder.name.partition("-")[0], set())
            with suppress(OSError, ValueError, LookupError, TypeError):
                manifest = json.loads((folder / MANIFEST).read_bytes())
                sources[folder] = sources[folder] | {Path(manifest["source"])}
    entries = []
    for folder, paths in sources.items():
        # What was resampled from a decoded file belongs to what that was decoded from.
        paths = {origin for path in paths for origin in sources.get(path.parent, {path})}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        entries.append(Stored(folder, size, sorted(paths)))
    return sorted(entries, key=lambda entry: (entry.sources, entry.folder))


def clear(root: Path | None, confirm: Callable[[list[Stored]], bool]) -> list[Stored]:
    """Delete entries of the cache, and nothing else.

    Args:
        root: Delete what was made of files under this folder, unless a file elsewhere that is
            there has the same content; None deletes all.
        confirm: Asked with what would be deleted; False leaves all as it is.

    Returns:
        What was deleted.

    Raises:
        DataError: Another process is writing to the cache, or it cannot be written to.
    """

    def belongs(entry: Stored) -> bool:
        assert root is not None
        inside = [Path(os.path.realpath(path)).is_relative_to(top) for path in entry.sources]
        elsewhere = zip(entry.sources, inside, strict=True)
        return any(inside) and not any(path.exists() for path, within in elsewhere if not within)

    top = os.path.realpath(root) if root else ""
    if not decoded_folder().is_dir():
        return []
    try:
        with cache_lock(wait=False):
            entries = [entry for entry in stored() if root is None or belongs(entry)]
            if (not entries and root is not None) or not confirm(entries):
                return []
            for entry in entries:
                shutil.rmtree(entry.folder)
            if root is None:
                ledger().file.unlink(missing_ok=True)
            return entries
    except OSError as error:
        raise DataError(
            f"{decoded_folder()}: cannot be cleared ({error}); a folder that may be written to was "
            "expected"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Show or clear as the command line says.

    Args:
        arguments: Command line; by default the process's own.

    Returns:
        Exit status: 0, or 2 where the cache could not be cleared.
    """
    parser = argparse.ArgumentParser(prog="python -m datamodules.cache", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="what is in the cache")
    clearing = commands.add_parser("clear", help="delete from the cache")
    clearing.add_argument("root", metavar="ROOT", nargs="?", type=Path, help="only what is of it")
    clearing.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _show_or_clear(options))


def _show_or_clear(options: argparse.Namespace) -> int:
    if options.command == "show":
        if cache_folder().is_file():
            raise DataError(f"STEMLAB_CACHE {cache_folder()}: is not a folder; give another")
        entries = stored()
        for entry in entries:
            sources = ", ".join(map(str, entry.sources)) or "of an unknown file"
            print(f"{entry.size / 1e6:10.1f} MB  {entry.folder.name}  {sources}")
        print(f"{decoded_folder()}: {_sum(entries)}")
        return 0

    command_line.check_folder(cache_folder(), "STEMLAB_CACHE")
    found: list[Stored] = []

    def confirm(entries: list[Stored]) -> bool:
        found.extend(entries)
        print(f"{decoded_folder()}: {_sum(entries)}; a run that uses them will stop with an error")
        if options.yes:
            return True
        try:
            return input("Delete them? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            raise DataError("nobody is there to be asked: give --yes to delete them") from None

    cleared = clear(options.root, confirm)
    if not found and options.root and not options.root.exists():
        raise DataError(
            f"{options.root}: does not exist, and the cache holds nothing that was made of files "
            "under it; give a folder that `show` names, or none to delete all"
        )
    print(f"deleted: {_sum(cleared)}")
    return 0


def _sum(entries: Sequence[Stored]) -> str:
    return f"{len(entries)} entries, {sum(entry.size for entry in entries) / 1e9:.2f} GB"
