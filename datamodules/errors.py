"""Errors that tell the user which file is wrong and what to do."""

from __future__ import annotations


class DataError(ValueError):
    """An error in the user's data; the message has file, finding, expectation and remedy."""


class FFmpegMissingError(DataError):
    """ffmpeg is needed to read a file, and is not installed."""
