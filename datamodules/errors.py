"""Errors that name the wrong file and what to do, and words for messages."""

from __future__ import annotations

from collections.abc import Sequence


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
