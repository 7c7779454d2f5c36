"""Names of the files that are written for a song."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files.find import SongFile
from lightning_modules.inference.encoding import Encoding

_TAGS = ("artist", "album", "title", "track")
FIELDS = ("folder", "song", "stem", *_TAGS)
_DEFAULT = "{folder}/{song}/{stem}"
_DEFAULT_OF_ONE_FILE = "{folder}/{song}/{song}"
ALL_STEMS = "stems"  # the field {stem} of a file that holds all
_EXAMPLE = "such as '{song} - {stem}'"
_NAME_BYTES = 255
# Not allowed in names on all disks, as on USB sticks.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


@dataclass(frozen=True)
class Naming:
    """Template of the names of files.

    Args:
        encoding: Format of the files.
        template: Path below the output folder, without suffix, with the fields ``FIELDS``; by
            default ``{folder}/{song}/{stem}``.

    Raises:
        DataError: The template has unknown fields or none that is needed, or leaves the folder.
    """

    encoding: Encoding
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is None:
            return
        fault = _fault(self.template, self.encoding.is_one_file)
        if fault:
            raise DataError(f"--name {self.template!r}: {fault}")

    @property
    def has_song_folder(self) -> bool:
        """Whether the files of a song are in a folder of their own."""
        folder = "{song}" if self.template is None else self.template.rpartition("/")[0]
        return "{song}" in folder or "{title}" in folder

    @property
    def needs_tags(self) -> bool:
        """Whether names depend on the tags of songs."""
        return any(name in _TAGS for name in _fields(self.template or ""))

    def files(
        self,
        output: Path,
        song: SongFile,
        stems: Sequence[str],
        tags: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """Return the files of a song: one for each stem, or one for all.

        Names that are too long for the file system are shortened.

        Args:
            output: Folder of all files.
            song: The song.
            stems: Names of the stems.
            tags: The song's, by soundfile's names, if ``needs_tags``.

        Raises:
            DataError: A file would be outside of the output folder.
        """
        template = self.template
        if template is None:
            template = _DEFAULT_OF_ONE_FILE if self.encoding.is_one_file else _DEFAULT
        words = [ALL_STEMS] if self.encoding.is_one_file else stems
        suffix = f".{self.encoding.suffix}"
        template = template.removesuffix(suffix) + suffix
        limit = _name_limit(output)
        values = {"song": song.name, **_tag_values(tags or {}, song)}
        used = [name for name in _fields(template) if name in values]
        while True:
            fields = {**values, "folder": song.folder}
            paths = [_fill(template, {**fields, "stem": word}) for word in words]
            excess = max(len(os.fsencode(part)) for path in paths for part in path) - limit
            longest = max(used, key=lambda name: len(os.fsencode(values[name])), default="")
            if excess <= 0 or not longest or not values[longest]:
                break
            values[longest] = _shorten(values[longest], excess)
        for path in paths:
            if ".." in path:
                raise DataError(
                    f"{song.path}: its stems would be written to {'/'.join(path)}, outside of "
                    f"{output}; rename it"
                )
        return [output.joinpath(*path) for path in paths]


def check_files(files: Mapping[SongFile, Sequence[Path]]) -> None:
    """Check that all files of all songs can exist together.

    Raises:
        DataError: Two songs have the same file, a file would be the folder of another, or would
            replace a song.
    """
    owners: dict[Path, SongFile] = {}
    folders = {parent for paths in files.values() for path in paths for parent in path.parents}
    songs = {os.path.realpath(song.path): song for song in files}
    advice = "put {folder} into --name, as in '{folder}/{song}/{stem}', or rename one"
    for song, paths in files.items():
        for path in paths:
            other = owners.setdefault(path, song)
            if other is not song:
                raise DataError(
                    f"{other.path} and {song.path} would both be written to {path}: {advice}"
                )
            if path in folders:
                raise DataError(f"{song.path}: {path} is the folder of another song: {advice}")
            if os.path.realpath(path) in songs:
                replaced = songs[os.path.realpath(path)].path
                raise DataError(
                    f"{song.path}: its stems would replace the song {replaced}; give another "
                    "folder with -o"
                )


def without_stems(files: Mapping[SongFile, list[Path]]) -> dict[SongFile, list[Path]]:
    """Leave out songs that are files of other songs: stems in a folder that is searched again."""
    owners = {os.path.realpath(path): song for song, paths in files.items() for path in paths}
    return {
        song: paths
        for song, paths in files.items()
        if owners.get(os.path.realpath(song.path), song) is song
    }


def _fault(template: str, is_one_file: bool) -> str:
    """What is wrong with a template; empty if nothing is."""
    known = ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        return f"{error}; the fields are {known}, {_EXAMPLE}"
    for name, form, conversion in fields:
        if name not in FIELDS or form or conversion:
            wrong = (
                (name or "")
                + (f"!{conversion}" if conversion else "")
                + (f":{form}" if form else "")
            )
            return f"unknown field {{{wrong}}}; the fields are {known}, {_EXAMPLE}"
    if not is_one_file and all(name != "stem" for name, *_ in fields):
        return (
            f"lacks {{stem}}, so that all stems would have the same name; expected one {_EXAMPLE}"
        )
    parts = template.split("/")
    if os.path.isabs(template) or ".." in parts or not parts[-1]:
        return f"expected a path below the folder of -o, {_EXAMPLE}; -o gives the folder"
    return ""


def _fields(template: str) -> set[str]:
    return {name for _, name, *_ in string.Formatter().parse(template) if name}


def _tag_values(tags: Mapping[str, str], song: SongFile) -> dict[str, str]:
    """Values of the fields that come from tags, as parts of names."""
    found = {
        "artist": tags.get("artist") or "Unknown artist",
        "album": tags.get("album") or "Unknown album",
        "title": tags.get("title") or song.name,
        "track": tags.get("tracknumber", "").partition("/")[0].zfill(2),
    }
    # Names that begin with a dot are hidden, and Windows drops dots at the end.
    return {name: _FORBIDDEN.sub("_", value).strip(" .") or "_" for name, value in found.items()}


def _fill(template: str, fields: Mapping[str, str]) -> list[str]:
    """Fill in a template; return the parts of the path. A folder may be empty."""
    # In one pass, as names may contain braces.
    filled = re.sub(
        r"\{\{|\}\}|\{(\w+)\}",
        lambda match: fields[match[1]] if match[1] else match[0][0],
        template,
    )
    return [part for part in filled.split("/") if part not in ("", ".")]


def _shorten(name: str, excess: int) -> str:
    """Remove bytes from the end of a name, and the rest of a character that is cut."""
    cut = os.fsdecode(os.fsencode(name)[:-excess])
    return re.sub("[\udc80-\udcff]{1,3}$", "", cut).rstrip()


def _name_limit(folder: Path) -> int:
    """Longest name in a folder, which need not exist yet, bytes."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        return os.pathconf(existing, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):
        return _NAME_BYTES
