"""Lists of files: CSV with a file per row, as type 3 of MSST, or JSON with a track per item.

A CSV has the columns ``path`` and ``stem`` (or ``instrum``, ``instrument``, ``source``), and may
have ``track`` (or ``name``) and ``subset`` (or ``split``). Rows of the same track and stem are
parts of the stem, and the stem ``mixture`` is the track's mixture. Without a track, a row is a file
of one stem, drawn for this stem only. A JSON list has items such as ``{"track": "A", "subset":
"train", "stems": {"vocals": "a/vocals.wav", "drums": ["a/kick.wav", "a/snare.wav"]}, "mixture":
"a/mixture.wav"}``. Paths are relative to the folder of the list; the subset is train by default.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError, listed
from datamodules.files.names import suffix_of
from datamodules.tracks.entries import MIXTURE, SUBSET_FOLDERS, SUBSETS, Entry
from datamodules.tracks.source_folders import combine, loose_entries

SUFFIXES = (".csv", ".json")
_COLUMNS = {
    "path": ("path",),
    "stem": ("stem", "instrum", "instrument", "source"),
    "track": ("track", "name"),
    "subset": ("subset", "split"),
}
_SUBSETS = {name: subset for subset, names in SUBSET_FOLDERS.items() for name in names}
_EXAMPLE = '{"track": "A", "subset": "train", "stems": {"vocals": "a/vocals.wav"}}'


class _Row(NamedTuple):
    line: int
    path: str
    stem: str
    track: str = ""
    subset: str = "train"


class TrackList:
    """The layout of a list in a CSV or JSON file."""

    name = "list"

    def recognises(self, root: Path) -> bool:
        """Whether the root is a file with the suffix of a list."""
        return suffix_of(root) in SUFFIXES and root.is_file()

    def subsets(self, root: Path, stems: Sequence[str]) -> list[str]:
        """Subsets that tracks of the list belong to."""
        found = {row.subset for row in _rows(root)}
        return [subset for subset in SUBSETS if subset in found]

    def entries(self, root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
        """Find the tracks of a subset in the list; other stems than ``stems`` are not read."""
        names = {*stems, MIXTURE}
        tracks: dict[str, dict[str, tuple[Path, ...]]] = {}
        loose: dict[str, list[Path]] = {}
        others: dict[str, dict[str, None]] = {}  # track -> its stems that are not read
        folder = root.parent
        for row in _rows(root):
            if row.subset != subset:
                continue
            if row.stem not in names:
                others.setdefault(row.track, {})[row.stem] = None
                continue
            path = folder / row.path
            if not row.track:
                loose.setdefault(row.stem, []).append(path)
            else:
                parts = tracks.setdefault(row.track, {})
                parts[row.stem] = (*parts[row.stem], path) if row.stem in parts else (path,)
        entries = [
            Entry(name, subset, at, at, parts=parts, unassigned=tuple(others.get(name, ())))
            for name, parts in sorted(tracks.items())
            for at in [root / name]
        ]
        single = loose_entries(loose, subset)
        entries += single if subset == "train" else combine(single)
        if not entries:
            found = list(dict.fromkeys(stem for names in others.values() for stem in names))
            raise DataError(
                f"{root}: lists no {subset} tracks with the stems {', '.join(stems)}; found: "
                f"{listed(found, 5) or f'no {subset} tracks'}; correct the list, or set stems to "
                "the names in it"
            )
        return entries


def _rows(root: Path) -> list[_Row]:
    try:
        status = root.stat()
    except OSError as error:
        raise DataError(
            f"{root}: cannot be read ({error.strerror}); check the path of the list"
        ) from error
    return _parsed(root, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _parsed(root: Path, size: int, modified_ns: int) -> list[_Row]:
    """Rows of a list; cached, as each subset of a data set reads it."""
    try:
        text = root.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(
            f"{root}: cannot be read as UTF-8 text ({error}); save the list again"
        ) from error
    rows = list(_csv_rows(root, text) if suffix_of(root) == ".csv" else _json_rows(root, text))
    if not rows:
        raise DataError(f"{root}: is empty; expected a file or track in each row")
    return rows


def _csv_rows(root: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines())
    header = [name.strip().lower() for name in next(reader, [])]
    columns = {
        kind: next((header.index(name) for name in names if name in header), None)
        for kind, names in _COLUMNS.items()
    }
    path, stem, track, subset = (columns[kind] for kind in _COLUMNS)
    if path is None or stem is None:
        raise DataError(
            f"{root}: its first line is {','.join(header)!r}; expected the names of columns, with "
            "at least stem,path (also track and subset); add that line"
        )
    for row in reader:
        if not any(row):
            continue
        if len(row) != len(header):
            raise DataError(
                f"{root}: line {reader.line_num} has {len(row)} columns, the first line "
                f"{len(header)}; correct it, with quotes around values that contain commas"
            )
        yield _checked(
            root,
            _Row(
                reader.line_num,
                row[path],
                row[stem],
                row[track] if track is not None else "",
                row[subset] if subset is not None else "train",
            ),
        )


def _json_rows(root: Path, text: str) -> Iterator[_Row]:
    try:
        items = json.loads(text)
    except ValueError as error:
        raise DataError(f"{root}: is not JSON ({error}); correct it") from error
    if not isinstance(items, list):
        raise DataError(f"{root}: must be a list of tracks, such as [{_EXAMPLE}]")
    for number, item in enumerate(items, 1):
        for row in _item_rows(number, item):
            if row is None:
                raise DataError(
                    f"{root}: item {number} is {json.dumps(item)[:100]}; expected a track such as "
                    f"{_EXAMPLE}; correct it"
                )
            yield _checked(root, row)


def _item_rows(number: int, item: Any) -> Iterator[_Row | None]:
    """Rows of a track; None if it is not one."""
    stems = item.get("stems") if isinstance(item, dict) else None
    if not isinstance(stems, dict) or not stems:
        yield None
        return
    track, subset = item.get("track", ""), item.get("subset", "train")
    mixture = {MIXTURE: item["mixture"]} if item.get("mixture") else {}
    for stem, files in {**stems, **mixture}.items():
        for path in files if isinstance(files, list) else [files]:
            texts = (path, track, subset)
            is_row = all(isinstance(text, str) for text in texts) and track
            yield _Row(number, path, stem, track, subset) if is_row else None


def _checked(root: Path, row: _Row) -> _Row:
    if row.subset in SUBSETS and row.path and row.stem:
        return row
    subset = _SUBSETS.get(row.subset.lower())
    if subset is None or not row.path or not row.stem:
        raise DataError(
            f"{root}: line or item {row.line} has the subset {row.subset!r}, stem {row.stem!r} and "
            f"path {row.path!r}; expected one of {', '.join(SUBSETS)}, a stem and a path; correct "
            "it"
        )
    return row._replace(subset=subset)
