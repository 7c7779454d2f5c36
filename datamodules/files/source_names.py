"""Names of sources, which also name audio files: plain, and distinct on any file system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datamodules.errors import DataError
from datamodules.files.names import key

# Files and players have the song itself under this name, beside its stems.
_SONG = "mixture"
# A file name has at most 255 bytes; suffixes and temporary names need some of them.
_MOST_BYTES = 200


def check_source_names(sources: Any) -> list[str]:
    """Check the names of a model's sources, which may come from a file of somebody else.

    Returns:
        The names.

    Raises:
        DataError: They are not a non-empty list, ``check_file_names`` refuses one, or one is
            ``mixture``.
    """
    if not isinstance(sources, Sequence) or isinstance(sources, str | bytes) or not sources:
        raise DataError(f"sources is {sources!r:.80}: expected a list of names, one per source")
    check_file_names(sources, "sources")
    for name in sources:
        if key(name) == _SONG:
            raise DataError(f"sources has {name!r}, which is the song itself: rename the source")
    return list(sources)


def check_file_names(names: Iterable[Any], what: str) -> None:
    """Check that names can be those of files in one folder.

    Args:
        names: The names, without suffix.
        what: What they are, for the message.

    Raises:
        DataError: A name is no string, empty, not a plain file name, or too long; or two are
            equal apart from letter case and Unicode form.
    """
    known: dict[str, str] = {}
    for name in names:
        if fault := _fault(name):
            raise DataError(
                f"{what} has {name!r:.80}, which {fault}; expected a plain file name such as "
                "'vocals': rename it"
            )
        if key(name) in known:
            raise DataError(
                f"{what} has {known[key(name)]!r} and {name!r}: expected names that differ, not "
                "only in letter case or Unicode form; rename one"
            )
        known[key(name)] = name


def _fault(name: Any) -> str:
    """Return why a name cannot be that of a file; empty if it can."""
    if not isinstance(name, str):
        return "is not a string"
    if not name or name != name.strip() or name.startswith("."):
        return "is empty, hidden, or begins or ends with a space"
    if "/" in name or "\\" in name or not name.isprintable():
        return "contains a path separator or an invisible character"
    if len(name.encode()) > _MOST_BYTES:
        return f"is longer than {_MOST_BYTES} bytes"
    return ""
