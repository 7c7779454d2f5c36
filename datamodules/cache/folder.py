"""The cache folder: location, entries, lock, and the command that shows and clears it.

``python -m datamodules.cache show`` lists the entries and the files they were made from;
``python -m datamodules.cache clear [ROOT]`` deletes the entries made from files under ROOT, or all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from datamodules import command_line
from datamodules.cache.file_facts import FileFacts
from datamodules.errors import DataError, counted
from datamodules.files import audio
from datamodules.files.audio import AudioInfo
from datamodules.locks import file_lock

MANIFEST = "manifest.json"
_BLOCK_BYTES = 2**20


def cache_folder() -> Path:
    """The cache folder: ``$STEMLAB_CACHE``, else ``stemlab`` in the user's cache."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("STEMLAB_CACHE") or Path(user_cache, "stemlab")).expanduser()


def decoded_folder() -> Path:
    """The folder of the entries: decoded and resampled files."""
    return cache_folder() / "decoded"


def file_facts() -> FileFacts:
    """The cache of facts about files."""
    return _file_facts_in(cache_folder())


@cache
def _file_facts_in(folder: Path) -> FileFacts:
    return FileFacts(folder / "ledger.jsonl")  # the name in version 0.1


def is_content_hash(value: object) -> bool:
    """Whether a value from the cache is a hash of 16 bytes, which names an entry."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None


class Decoded(NamedTuple):
    """A complete entry of the cache.

    Attributes:
        folder: Folder of the entry.
        infos: Name of each WAV file in it, without suffix -> its header. A .stem.mp4 has one
            file per stream, any other file one called ``audio``.
        checksums: Name of each WAV file -> CRC-32 of its content.
        mixture_error: What is wrong with the mixture of a .stem.mp4; empty if it is the sum of the
            stems.
    """

    folder: Path
    infos: dict[str, AudioInfo]
    checksums: dict[str, int]
    mixture_error: str = ""

    def file(self, name: str = "audio") -> Path:
        """Path of a WAV file in the entry, by its name without suffix."""
        return self.folder / f"{name}.wav"


def write_manifest(folder: Path, source: Path, mixture_error: str = "") -> None:
    """Describe a new entry with its WAV files, made from ``source``; see `Decoded`."""
    files = {
        file.stem: {
            "bytes": file.stat().st_size,
            "crc32": checksum(file),
            **asdict(audio.inspect_seekable(file)),
        }
        for file in sorted(folder.iterdir())
    }
    manifest: dict[str, Any] = {
        "source": os.path.abspath(source),
        "files": files,
        "mixture_error": mixture_error,
    }
    manifest["crc32"] = _manifest_checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def read_entry(folder: Path) -> Decoded | None:
    """Read an entry; None if it does not exist or does not match its manifest.

    Files are compared by size; `is_intact` reads them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest.pop("crc32") != _manifest_checksum(manifest):
            return None
        entry = Decoded(folder, {}, {}, str(manifest["mixture_error"]))
        for name, facts in manifest["files"].items():
            size, entry.checksums[name] = facts.pop("bytes"), facts.pop("crc32")
            entry.infos[name] = AudioInfo(**facts)
            is_file_name = Path(name).name == name
            if not is_file_name or os.stat(entry.file(name)).st_size != size:
                return None
            if not _fits(entry.infos[name], size):
                return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return entry


def _manifest_checksum(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest).encode())


def _fits(info: AudioInfo, size: int) -> bool:
    """Whether a file of this size, bytes, can have this header."""
    sample_bytes = 2 if info.subtype == "PCM_16" else 4
    numbers = info.samples, info.sample_rate, info.channels
    return (
        all(type(number) is int and number > 0 for number in numbers)
        and sample_bytes * info.samples * info.channels <= size
    )


def checksum(path: Path) -> int:
    """CRC-32 of a file's content."""
    value = 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:  # a bad sector would kill a process that maps it
        while size := file.readinto(buffer):
            value = zlib.crc32(buffer[:size], value)
    return value


@contextmanager
def cache_lock(progress: bool = False, wait: bool = True) -> Iterator[None]:
    """Let one process at a time write to the cache.

    If another process is writing, wait for it, or without ``wait`` raise a ``DataError``. On file
    systems without locks no process waits, so that several may decode the same files.
    """
    folder = decoded_folder()

    def on_busy() -> None:
        if not wait:
            raise DataError(f"{folder}: another process is writing to it; wait for it, or stop it")
        if progress:
            print(f"Waiting for another process that decodes into {folder}", file=sys.stderr)

    with file_lock(folder / ".lock", on_busy):
        yield


class Stored(NamedTuple):
    """An entry as the command shows it.

    Attributes:
        folder: Folder of the entry.
        size: Size of the folder, bytes.
        sources: All known files from whose content the entry was made.
    """

    folder: Path
    size: int
    sources: list[Path]


def stored() -> list[Stored]:
    """List all entries of the cache, also incomplete ones, sorted by their source files."""
    if not decoded_folder().is_dir():
        return []
    copies: dict[str, set[Path]] = {}
    for path, content in file_facts().paths("content"):
        if is_content_hash(content):
            copies.setdefault(content, set()).add(Path(path))
    sources = {}
    for folder in decoded_folder().iterdir():
        if folder.is_dir() and not folder.is_symlink():
            # The names of resampled entries end in the rate.
            sources[folder] = copies.get(folder.name.partition("-")[0], set())
            with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
                manifest = json.loads((folder / MANIFEST).read_bytes())
                sources[folder] = sources[folder] | {Path(manifest["source"])}
    entries = []
    for folder, paths in sources.items():
        # For an entry resampled from a file in the cache, list the files that this was made from.
        paths = {origin for path in paths for origin in sources.get(path.parent, {path})}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        entries.append(Stored(folder, size, sorted(paths)))
    return sorted(entries, key=lambda entry: (entry.sources, entry.folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 after an error."""
    options = build_parser().parse_args(arguments)
    if options.command == "show":
        return command_line.run(_show)
    return command_line.run(lambda: _clear(options.root, options.yes))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("datamodules.cache", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="list the entries")
    clearing = commands.add_parser("clear", help="delete entries")
    made_from = "only those made from files under it"
    clearing.add_argument("root", metavar="ROOT", nargs="?", type=Path, help=made_from)
    clearing.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _show() -> int:
    if cache_folder().is_file():
        raise DataError(
            f"STEMLAB_CACHE {cache_folder()}: is not a folder; set STEMLAB_CACHE to another"
        )
    entries = stored()
    for entry in entries:
        sources = ", ".join(map(str, entry.sources)) or "of an unknown file"
        print(f"{entry.size / 1e6:10.1f} MB  {entry.folder.name}  {sources}")
    print(f"{decoded_folder()}: {_total(entries)}")
    return 0


def _clear(root: Path | None, yes: bool) -> int:
    """Delete the entries made from files under a folder, or all, and nothing else.

    An entry is kept if an existing file elsewhere has the same content.
    """
    command_line.check_folder(cache_folder(), "STEMLAB_CACHE")
    top = os.path.realpath(root) if root else ""

    def is_made_from_root(entry: Stored) -> bool:
        inside = {
            path for path in entry.sources if Path(os.path.realpath(path)).is_relative_to(top)
        }
        return bool(inside) and not any(path.exists() for path in {*entry.sources} - inside)

    entries: list[Stored] = []
    deleted: list[Stored] = []
    try:
        if decoded_folder().is_dir():
            with cache_lock(wait=False):
                entries = [entry for entry in stored() if root is None or is_made_from_root(entry)]
                if (entries or root is None) and _confirm(entries, yes):
                    for entry in entries:
                        shutil.rmtree(entry.folder)
                    if root is None:
                        file_facts().file.unlink(missing_ok=True)
                    deleted = entries
    except OSError as error:
        raise DataError(
            f"{decoded_folder()}: cannot be cleared ({error}); expected a writable folder"
        ) from error
    if not entries and root and not root.exists():
        raise DataError(
            f"{root}: does not exist, and no entry was made from files under it; ROOT must be a "
            "folder that `show` lists; without ROOT all entries are deleted"
        )
    print(f"deleted: {_total(deleted)}")
    return 0


def _confirm(entries: Sequence[Stored], yes: bool) -> bool:
    print(f"{decoded_folder()}: {_total(entries)}; a run that uses them will stop")
    try:
        return yes or input("Delete them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise DataError("no terminal to confirm on: use --yes to delete them") from None


def _total(entries: Sequence[Stored]) -> str:
    gigabytes = sum(entry.size for entry in entries) / 1e9
    return f"{counted(len(entries), 'entry', 'entries')}, {gigabytes:.2f} GB"
