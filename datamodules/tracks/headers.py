"""Headers of a data set's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from datamodules.cache.folder import Decoded, file_facts
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.state import State, state
from datamodules.files.wav import is_mappable


class Header(NamedTuple):
    """Header of a file, and the state of the file when the header was read.

    Attributes:
        samples: Length, samples per channel.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        subtype: Encoding, such as ``PCM_16``.
        mappable: Whether the file can be memory-mapped.
        state: The file's state.
    """

    samples: int
    sample_rate: int
    channels: int
    subtype: str
    mappable: bool
    state: State


def read_headers(
    paths: Sequence[Path], progress: bool
) -> tuple[dict[Path, Header], dict[Path, DataError]]:
    """Read headers, cached while a file is unchanged; also return the errors of faulty files."""

    def read(path: Path) -> list[object]:
        return [*astuple(audio.inspect_seekable(path)), is_mappable(path)]

    known, faults = file_facts().look_up(
        "header", read, paths, "checking tracks", progress, is_valid=_is_header
    )
    headers = {path: Header._make((*value, state)) for path, (state, value) in known.items()}
    return headers, faults


def _is_header(value: object) -> bool:
    """Whether a value from the cache has the fields of a header."""
    if not isinstance(value, list) or len(value) != 5:
        return False
    samples, rate, channels, subtype, mappable = value
    is_int = type(samples) is type(rate) is type(channels) is int
    is_typed = is_int and type(subtype) is str and type(mappable) is bool
    return is_typed and samples > 0 and rate > 0 and channels > 0


def decoded_headers(entries: Mapping[Path, Decoded]) -> dict[Path, Header]:
    """Headers of the files in entries of the cache, from their manifests."""
    return {
        (file := entry.file(name)): Header._make((*astuple(info), True, state(file)))
        for entry in entries.values()
        for name, info in entry.infos.items()
    }
