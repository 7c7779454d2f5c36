"""Headers of a data set's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.cache.folder import Decoded, file_facts
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.state import State, state
from datamodules.files.wav import is_mappable


class Header(NamedTuple):
    """Header of a file, and the state of the file in which it was read.

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
    """Read headers and check that the files are complete; cached while a file is unchanged.

    Args:
        paths: The files, of formats that soundfile reads.
        progress: Show a progress bar, if it takes more than a second.

    Returns:
        File -> header, and file -> error.
    """

    def read(path: Path) -> list[object]:
        info = audio.inspect_seekable(path)
        return [info.samples, info.sample_rate, info.channels, info.subtype, is_mappable(path)]

    known, faults = file_facts().find_out("header", read, paths, "checking tracks", progress)
    headers = {path: Header._make((*value, state)) for path, (state, value) in known.items()}
    return headers, faults


def decoded_headers(entries: Mapping[Path, Decoded]) -> dict[Path, Header]:
    """Headers of files in the cache, from their manifests.

    Args:
        entries: File -> its entry.

    Returns:
        File in the cache -> header.
    """
    return {
        file: Header(info.samples, info.sample_rate, info.channels, info.subtype, True, state(file))
        for entry in entries.values()
        for name, info in entry.infos.items()
        for file in [entry.file(name)]
    }
