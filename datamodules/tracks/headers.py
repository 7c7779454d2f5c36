"""The headers of a data set's files, each read once and then remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.cache.folder import Decoded, ledger
from datamodules.errors import DataError
from datamodules.files import audio
from datamodules.files.state import State, state
from datamodules.files.wav import is_mappable


class Header(NamedTuple):
    """What the header of a file says, and of which state of the file.

    Attributes:
        samples: Length, samples per channel.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        subtype: Encoding, such as ``PCM_16``.
        mappable: Whether its samples can be used where they lie.
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
    """Check headers, and that the files are whole.

    Args:
        paths: The files, of formats that soundfile reads.
        progress: Show a progress bar, if it takes more than a second.

    Returns:
        File -> header, and file -> fault.
    """

    def read(path: Path) -> list[object]:
        info = audio.inspect_seekable(path)
        return [info.samples, info.sample_rate, info.channels, info.subtype, is_mappable(path)]

    known, faults = ledger().find_out("header", read, paths, "checking tracks", progress)
    headers = {path: Header._make((*value, state)) for path, (state, value) in known.items()}
    return headers, faults


def decoded_headers(entries: Mapping[Path, Decoded]) -> dict[Path, Header]:
    """Tell the headers of files in the cache, which their manifests hold.

    Args:
        entries: File -> its entry.

    Returns:
        File in the cache -> header.
    """
    return {
        entry.file(name): Header(
            info.samples,
            info.sample_rate,
            info.channels,
            info.subtype,
            True,
            state(entry.file(name)),
        )
        for entry in entries.values()
        for name, info in entry.infos.items()
    }
