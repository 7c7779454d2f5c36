"""PCM mapped in place: a crop costs the reading of its samples and nothing else.

A WAV file of 16 or 32-bit integers or floats is the array of its samples behind
a header, so it is mapped into memory instead of decoded. The kernel's page cache
then serves all workers and all runs of a machine from one copy.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.audio import DataError
from datamodules.ledger import State, changed, check_same
from datamodules.wav import TYPES, wav_header_of

# Linux allows a process 65,530 mappings; the libraries have some thousand of them.
_OPEN_MAPPINGS = 16_384


class MappedFile:
    """A WAV file's samples as a tensor, without a copy.

    Args:
        path: The file.
        expected: Its state when it was checked; by default as it is now.

    Attributes:
        samples: All samples, shape (T, C), of the file's own type; not to be written to.
    """

    def __init__(self, path: Path, expected: State | None = None) -> None:
        try:
            file = path.open("rb")
        except OSError as error:
            raise changed(path) from error
        with file:
            self._state = State.of(os.fstat(file.fileno()))
            if expected and not self._state.is_same(expected):
                raise changed(path)
            header = wav_header_of(file)
            dtype = TYPES.get((header.tag, header.bits)) if header else None
            if header is None or dtype is None or not header.channels:
                raise DataError(
                    f"{path}: no WAV file of 16 or 32-bit samples, which mapping needs; convert it"
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = header.present if header.declared is None else header.declared
        frames = min(count, header.present) // (dtype.itemsize * header.channels)
        self._path = path
        array = np.frombuffer(self._map, dtype, frames * header.channels, offset=header.offset)
        self._offset = header.offset
        self._frame_bytes = dtype.itemsize * header.channels
        with warnings.catch_warnings():
            # torch has no read-only tensors and warns of an array that is; nobody writes here.
            warnings.simplefilter("ignore", UserWarning)
            self.samples = torch.from_numpy(array).view(frames, header.channels)

    def crop(self, start: int, samples: int) -> Tensor:
        """Take a part, after making sure that the file is the one that was mapped.

        Reading a mapping of a file that was cut short ends the process (SIGBUS). What is left of
        that danger is a cut between this check and the reading that follows, some microseconds
        to milliseconds later; closing it would take a copy by ``read``, as slow again as the rest.
        There the worker dies and the loader says so: no wrong sample, no hang.

        Args:
            start: First sample.
            samples: Number of samples; past the end the result is short.

        Returns:
            A view, shape (t, C).

        Raises:
            DataError: The file was removed, replaced or changed since it was mapped.
        """
        check_same(self._path, self._state)
        page = mmap.PAGESIZE
        first = (self._offset + start * self._frame_bytes) // page * page
        length = min(samples * self._frame_bytes + page, len(self._map) - first)
        if length > 0:
            # Tells the kernel to fetch the whole part at once, not page by page as touched.
            self._map.madvise(mmap.MADV_WILLNEED, first, length)
        return self.samples[start : start + samples]


class Mappings:
    """Files mapped on first use; the longest unused are given up when there are too many.

    Args:
        states: The state in which each file was checked; another is an error.
    """

    def __init__(self, states: Mapping[Path, State] | None = None) -> None:
        self._states = states or {}
        self._files: OrderedDict[Path, MappedFile] = OrderedDict()

    def crop(self, path: Path, start: int, samples: int) -> Tensor:
        """Take a part of a file.

        Args:
            path: The file.
            start: First sample.
            samples: Number of samples; past the end the result is short.

        Returns:
            A view, shape (t, C).

        Raises:
            DataError: The file changed, or cannot be mapped.
        """
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = MappedFile(path, self._states.get(path))
            if len(self._files) > _OPEN_MAPPINGS:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(path)
        return file.crop(start, samples)

    def __getstate__(self) -> dict[str, object]:
        # Another process maps for itself.
        return {"_states": self._states, "_files": OrderedDict()}
