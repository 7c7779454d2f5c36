"""Errors that tell the user which file is wrong and what to do."""

from __future__ import annotations


class DataError(ValueError):
    """A fault in the user's data; the message names file, finding, expectation, remedy."""


class FFmpegMissingError(DataError):
    """A file can be read by ffmpeg only, and ffmpeg is not installed."""
