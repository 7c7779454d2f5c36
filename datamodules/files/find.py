"""Find songs by the files, folders and patterns that a user gives, and name them."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.files.info import AudioInfo
from datamodules.files.names import is_stem_file, is_system_name, key, without_suffix
from datamodules.files.song import inspect_song
from datamodules.parallel import for_each

# Of formats that soundfile or ffmpeg reads, videos included; the common ones first.
SUFFIXES = (
    ".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aiff", ".aif", ".aac", ".mp4", ".wma",
    ".webm", ".oga", ".mkv", ".aifc", ".caf", ".au", ".wv", ".mp2", ".mpga", ".w64", ".rf64",
    ".bwf", ".wave", ".snd", ".m4b", ".m4r", ".m4v", ".mka", ".mov", ".avi", ".wmv", ".asf",
    ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".vob", ".flv", ".f4v", ".ogv", ".3gp", ".3g2",
    ".ape", ".tta", ".tak", ".mpc", ".dsf", ".dff", ".ac3", ".eac3", ".ec3", ".dts", ".mlp",
    ".thd", ".amr", ".awb", ".spx", ".ra", ".rm", ".voc", ".sd2", ".avr", ".nist", ".sph",
    ".ircam", ".paf", ".iff", ".svx", ".pvf", ".adts", ".latm", ".gsm", ".weba", ".mxf", ".oma",
)  # fmt: skip
_MIXTURE = "mixture"
_STEMS = ("vocals", "drums", "bass", "other")
_SHOWN = 20


class SongFile(NamedTuple):
    """A song's file, and how the song is called.

    Attributes:
        path: The file.
        folder: Its folder below the folder that was searched, with ``/`` between names; empty
            for a file that was given by name, unless songs of the same name need it.
        name: Name of the song, which can be the name of a folder.
    """

    path: Path
    folder: str
    name: str


@dataclass
class Found:
    """Result of a search.

    Attributes:
        songs: Song -> header. No two songs have the same folder and name.
        faults: Path as given or found -> message, of files that are not audio and of inputs
            without any song.
        notes: Messages about files in the given folders that are skipped.
    """

    songs: dict[SongFile, AudioInfo] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_audio_files(
    inputs: Iterable[str | Path],
    output: Path | None = None,
    progress: bool = False,
    downmix: bool = False,
) -> Found:
    """Find audio files and read their headers.

    A file that is given twice, also through a symbolic link, is one song.

    Args:
        inputs: Audio files, folders, which are searched recursively, or patterns such as
            ``albums/**/*.flac``.
        output: A folder that is not searched.
        progress: Show a bar while headers are read.
        downmix: Songs of more than two channels are read in stereo.

    Returns:
        Songs in the order of the inputs, sorted by name within a folder or pattern; and what is
        wrong with other files.
    """
    search = _Search(output)
    for path in map(_spelled_as_on_disk, inputs):
        search.add(path)

    def header(path: Path) -> AudioInfo | str:
        try:
            return inspect_song(path, downmix)
        except DataError as fault:
            return str(fault)

    paths = [path for path, _ in search.files.values()]
    headers = for_each(header, paths, "reading headers", progress)
    found = Found(faults=search.faults, notes=search.notes)
    for song, info in zip(_named(list(search.files.values())), headers, strict=True):
        if isinstance(info, str):
            found.faults[str(song.path)] = info
        else:
            found.songs[song] = info
    return found


def song_name(song: Path) -> str:
    """Name of a song: the file's without suffix, or the track's for MUSDB18-HQ's ``mixture``."""
    if _is_mixture(song):
        return song.resolve().parent.name
    known = is_stem_file(song) or key(song.name).endswith(SUFFIXES)
    name = without_suffix(song) if known else song.name
    # "..wav" without its suffix is the name of a folder that exists already.
    return name if name.strip(".") else song.name


class _Search:
    """Collects files: real path -> path as given, and the folder that its songs are named from."""

    def __init__(self, output: Path | None) -> None:
        self.files: dict[str, tuple[Path, Path]] = {}
        self.faults: dict[str, str] = {}
        self.notes: list[str] = []
        self._output = os.path.realpath(output) if output else ""

    def add(self, path: Path) -> None:
        """Add a file, or what is found in a folder or by a pattern."""
        if os.path.isdir(path):
            self._add_found(path, path, list(self._files_below(path)), "in this folder")
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            folder, pattern = _split(path)
            # Files are found by any suffix that a pattern names.
            known = None if re.search(r"\.\w+$", path.name) else SUFFIXES
            self._add_found(
                path, folder, list(self._matches(folder, pattern)), "matches this", known
            )
        else:
            self._keep(path, path.parent)

    def _add_found(
        self,
        given: Path,
        folder: Path,
        paths: list[Path],
        where: str,
        known: tuple[str, ...] | None = SUFFIXES,
    ) -> None:
        songs: list[Path] = []
        others: dict[str, None] = {}
        mixtures = {path.parent for path in paths if _is_mixture(path)}
        for path in paths:
            is_stem = path.parent in mixtures and key(path.stem) in _STEMS
            is_audio = os.path.isfile(path) and (known is None or key(path.name).endswith(known))
            if is_audio and not is_stem:
                songs.append(path)
            else:
                others[os.path.relpath(path, folder)] = None
        for path in songs:
            self._keep(path, folder)
        if others:
            names = ", ".join([*others][:_SHOWN]) + ", ..." * (len(others) > _SHOWN)
            self.notes.append(
                f"{given}: skipped, since they are not files whose names end as those of audio "
                f"or video do: {names} ({len(others)} in total); give a file by name to separate it"
            )
        if not songs:
            self.faults[str(given)] = (
                f"{given}: no audio file {where} ({', '.join(SUFFIXES[:5])} and "
                f"{len(SUFFIXES) - 5} other suffixes); check the path, or give files by name"
            )

    def _keep(self, path: Path, folder: Path) -> None:
        self.files.setdefault(os.path.realpath(path), (path, folder))

    def _files_below(self, folder: Path) -> Iterator[Path]:
        entered: set[str] = set()  # links may lead back up
        for here, folders, files in os.walk(folder, onerror=self._unreadable, followlinks=True):
            entered.add(os.path.realpath(here))
            folders[:] = sorted(
                name
                for name in folders
                if not is_system_name(name)
                and (real := os.path.realpath(os.path.join(here, name))) not in entered
                and real != self._output
            )
            yield from (Path(here, name) for name in sorted(files) if not is_system_name(name))

    def _matches(self, folder: Path, pattern: str) -> Iterator[Path]:
        is_outside = not self._is_output(folder)
        matches = glob.glob(pattern, root_dir=folder, recursive=True)
        # The shortest way to each: links may lead back up.
        shortest: dict[str, str] = {}
        for match in sorted(matches, key=lambda match: (match.count(os.sep), match)):
            shortest.setdefault(os.path.realpath(folder / match), match)
        for match in sorted(shortest.values()):
            path = folder / match
            if any(map(is_system_name, Path(match).parts)):
                continue
            if is_outside and self._is_output(path):
                continue
            if os.path.isdir(path):
                yield from self._files_below(path)
            else:
                yield path

    def _is_output(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return bool(self._output) and Path(real).is_relative_to(self._output)

    def _unreadable(self, error: OSError) -> None:
        self.faults[str(error.filename)] = (
            f"{error.filename}: cannot be searched ({error.strerror}); check its permissions"
        )


def _split(pattern: Path) -> tuple[Path, str]:
    """Split a pattern into folders that exist and the rest.

    The folders may have brackets in their names. The rest matches suffixes in any letter case.
    """
    folder, parts = Path(), list(pattern.parts)
    while os.path.isdir(folder / parts[0]):
        folder /= parts.pop(0)
    rest = os.path.join(*parts)
    suffix = re.search(r"\.\w+$", rest)
    if suffix:
        both = re.sub(r"[^\W\d_]", lambda letter: _both_cases(letter[0]), suffix[0])
        rest = rest[: suffix.start()] + both
    return folder, rest


def _both_cases(letter: str) -> str:
    return f"[{letter.lower()}{letter.upper()}]"


def _spelled_as_on_disk(path: str | Path) -> Path:
    """Return a path whose accents are written as on the disk: composed or decomposed."""
    normal: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: unicodedata.normalize("NFC", text),
        lambda text: unicodedata.normalize("NFD", text),
    ]
    spellings = [Path(form(str(path))) for form in normal]
    return next((spelling for spelling in spellings if os.path.lexists(spelling)), Path(path))


def _is_mixture(path: Path) -> bool:
    return key(path.stem) == _MIXTURE and bool(path.resolve().parent.name)


def _named(files: list[tuple[Path, Path]]) -> list[SongFile]:
    """Name files, given with the folders below which their folders are kept."""
    names = [song_name(path) for path, _ in files]
    parents: list[tuple[str, ...]] = []  # names of all folders above the song
    depths: list[int] = []  # how many of them are kept
    for path, root in files:
        base = Path(os.path.abspath(path))
        above = (base.parent if _is_mixture(path) else base).parent
        root = Path(os.path.abspath(root))
        parents.append(above.parts[1:])
        is_below = above.is_relative_to(root)
        depths.append(len(above.relative_to(root).parts) if is_below else 0)
    # Song.wav and Song.flac of one folder.
    twice = Counter(zip(parents, names, strict=True))
    for number, (path, _) in enumerate(files):
        if twice[parents[number], names[number]] > 1:
            is_mixture = _is_mixture(path)
            names[number] = names[number] + path.suffix if is_mixture else path.name
    # Songs of the same name in several folders.
    while True:
        places = [
            (*above[len(above) - depth :], name)
            for above, depth, name in zip(parents, depths, names, strict=True)
        ]
        count = Counter(places)
        deeper = [
            number
            for number, place in enumerate(places)
            if count[place] > 1 and depths[number] < len(parents[number])
        ]
        if not deeper:
            break
        for number in deeper:
            depths[number] += 1
    return [
        SongFile(path, "/".join(folders), name)
        for (path, _), (*folders, name) in zip(files, places, strict=True)
    ]
