"""Errors that name the wrong file and what to do, and words for messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


class DataError(ValueError):
    """An error in the user's data; the message has file, finding, expectation and remedy."""


class FFmpegMissingError(DataError):
    """ffmpeg is needed to read a file, and is not installed."""


def counted(number: float, noun: str, plural: str = "") -> str:
    """Number and noun, such as ``1 track`` or ``2 tracks``; ``plural`` is needed unless with s."""
    shown = f"{number:g}" if isinstance(number, float) else number
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Join names by commas, for a message; after ``most`` of them, say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def did_you_mean(found: object, known: Iterable[str], most: int = 1) -> str:
    """End of a message about an unknown name: the known names that are most like it, if any are.

    Capitals and punctuation do not count.
    """
    plain = {_plain(name): name for name in known}
    close = difflib.get_close_matches(_plain(str(found)), plain, most)
    return f"; did you mean {' or '.join(plain[name] for name in close)}?" if close else ""


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
