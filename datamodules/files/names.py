"""Names of files and folders: comparison without letter case and Unicode form, system files.

Letter case is kept by some file systems and ignored by others, and macOS stores "é" as two
characters (NFD) where other systems store one (NFC). So neither decides whether two names are the
same. Messages show names as they are on disk.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

_STEM_FILE_SUFFIX = ".stem.mp4"

# Files and folders that systems, synchronisation and network storage leave behind.
_SYSTEM_NAMES = frozenset(
    (
        "__macosx",  # archives made on macOS
        "icon\r",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "system volume information",  # Windows
        "$recycle.bin",
        "recycler",
        "recycled",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "lost+found",  # Linux
        "lost.dir",  # Android
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "__pycache__",
    )
)


def key(name: str) -> str:
    """Return the name without letter case, as NFC: equal for names that count as the same."""
    if name.isascii():
        return name.lower()
    # Decomposed first, because folding does not keep the order of combining characters.
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded)


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal, or differ only in letter case or Unicode form."""
    return key(one) == key(other)


def song_key(name: str) -> str:
    """Letters and digits of a name, without letter case: ``A Band - Song`` and ``ABand_Song``."""
    return "".join(filter(str.isalnum, key(name))) or key(name)


def match(wanted: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Find names: each wanted name that is present -> the name as it is present.

    An equal name is preferred; otherwise it is the first in sorted order that is the same without
    letter case and Unicode form.
    """
    names = sorted(present, reverse=True)
    by_key = {key(name): name for name in names}
    equal = set(names)
    return {
        name: name if name in equal else by_key[key(name)]
        for name in wanted
        if name in equal or key(name) in by_key
    }


def pair(wanted: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Like `match`, but without names that are present for another wanted name, equal to them."""
    names = set(wanted)
    return {
        name: found
        for name, found in match(sorted(names), present).items()
        if found == name or found not in names
    }


def groups_of_same(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more different names that are the same in the sense of `same_name`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def suffix_of(path: str | PurePath) -> str:
    """Last suffix of a file name in lower case, such as ``.wav``; empty if it has none."""
    return key(os.path.splitext(path)[1])  # ten times as fast as PurePath.suffix


def is_stem_file(path: str | PurePath) -> bool:
    """Whether a file's name says that it is a .stem.mp4: one audio stream per stem."""
    return key(os.path.basename(path)).endswith(_STEM_FILE_SUFFIX)


def without_suffix(path: str | PurePath) -> str:
    """Name of a file without its suffix, which is ``.stem.mp4`` or the last one."""
    path = PurePath(path)
    return path.name[: -len(_STEM_FILE_SUFFIX)] if is_stem_file(path) else path.stem


def is_system_name(name: str) -> bool:
    """Whether a file or folder is hidden (``.DS_Store``, ``._vocals.wav``) or of the system.

    Names that begin with two dots are titles, such as "...Baby One More Time".
    """
    hidden = name.startswith(".") and not name.startswith("..")
    return hidden or key(name) in _SYSTEM_NAMES
