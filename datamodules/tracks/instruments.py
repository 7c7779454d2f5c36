"""Assignment of a track's instruments to stems, by the names of the instruments.

Data sets with a file per instrument name each one by several names, from the most to the least
specific, such as ``kick_drum``, ``drums``. A file belongs to the first of its names that is a stem;
if none is, to ``other`` if that is a stem; otherwise it is not read. The sum of the files of a stem
is its audio. So the stems ``vocals, drums, bass, other``, six stems with guitar and piano, or the
parts of a drum kit alone are a question of the setting ``stems``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError
from datamodules.tracks.entries import MIXTURE, Entry

OTHER = "other"
_NAMED = 12


class Instrument(NamedTuple):
    """A file of a track.

    Attributes:
        file: The file.
        names: Its names, from the most to the least specific; none of them is a sentence.
    """

    file: Path
    names: tuple[str, ...]


def slug(name: str) -> str:
    """Name of a stem from a label: ``Synth Lead`` -> ``synth_lead``; remarks in () are left out."""
    without_remarks = re.sub(r"\([^)]*\)?", " ", name.lower())
    return "_".join(re.findall(r"[a-z0-9]+", without_remarks))


def stem_of(names: Iterable[str], stems: Sequence[str]) -> str | None:
    """The stem that an instrument with these names belongs to; None if it is not read."""
    # A specific name may be "other", such as that of other vocals.
    found = next((name for name in names if name in stems and name != OTHER), None)
    return found or (OTHER if OTHER in stems else None)


def entry_of_instruments(
    name: str,
    subset: str,
    path: Path,
    instruments: Sequence[Instrument],
    stems: Sequence[str],
    mixture: Path | None = None,
    has_bleed: bool = False,
) -> Entry:
    """A track with the files of each stem.

    Args:
        name: Name of the track.
        subset: Its subset.
        path: Its folder.
        instruments: All of its files, without the mixture.
        stems: Names of the stems.
        mixture: Its mixture, which is used only if all instruments belong to stems.
        has_bleed: Whether its files are said to contain other instruments.
    """
    parts: dict[str, tuple[Path, ...]] = {}
    unassigned = []
    for instrument in instruments:
        stem = stem_of(instrument.names, stems)
        if stem is None:
            unassigned.append(instrument.names[0])
        else:
            parts[stem] = (*parts.get(stem, ()), instrument.file)
    if mixture is not None and not unassigned:
        parts[MIXTURE] = (mixture,)
    return Entry(
        name,
        subset,
        path,
        path,
        parts=parts,
        complete=True,
        unassigned=tuple(dict.fromkeys(unassigned)),
        has_bleed=has_bleed,
    )


def with_stems(entries: Sequence[Entry], stems: Sequence[str], root: Path) -> list[Entry]:
    """The tracks that have at least one of the stems; raises a ``DataError`` if none has."""
    found = [entry for entry in entries if entry.parts is None or entry.parts.keys() - {MIXTURE}]
    if entries and not found:
        names = Counter(name for entry in entries for name in entry.unassigned)
        shown = ", ".join(name for name, _ in names.most_common(_NAMED)) or "none"
        raise DataError(
            f"{root}: none of its {len(entries)} tracks has one of the stems {', '.join(stems)}; "
            f"found: {shown}; set stems to names of its instruments, with sources to match"
        )
    return found
