"""PCM mapped in place: a crop costs the reading of its samples and nothing else.

A WAV file of 16 or 32-bit integers or floats is the array of its samples behind
a header, so it is mapped into memory instead of decoded. The kernel's page cache
then serves all workers and all runs of a machine from one copy.
"""

from __future__ import annotations

import mmap
import os
import resource
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.files.state import State, changed, check_same
from datamodules.files.wav import TYPES, wav_header_of

# Linux allows a process 65,530 mappings; the libraries have some thousand of them.
_OPEN_MAPPINGS = 16_384
# Parts of this many bytes are fetched together, and remembered as fetched.
_PART_BYTES = 32 * mmap.PAGESIZE


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
        # One byte for each part: 1 once it has been fetched, while memory had room for all.
        self._fetched = bytearray(-(-len(self._map) // _PART_BYTES))
        self._disk_reads = 0
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
        begin = self._offset + start * self._frame_bytes
        self._fetch(begin, min(begin + samples * self._frame_bytes, len(self._map)))
        return self.samples[start : start + samples]

    def _fetch(self, begin: int, end: int) -> None:
        """Have the kernel fetch bytes all at once, not page by page as they are touched.

        To ask costs as much as copying a tenth of a crop. So it is asked once for each part of
        the file, and anew when this process had to wait for the disk: pages were given up then.
        """
        disk_reads = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        if disk_reads != self._disk_reads:
            self._disk_reads = disk_reads
            self._fetched = bytearray(len(self._fetched))
        first, stop = begin // _PART_BYTES, -(-end // _PART_BYTES)
        if self._fetched.find(0, first, stop) >= 0:
            at = first * _PART_BYTES
            self._map.madvise(mmap.MADV_WILLNEED, at, min(stop * _PART_BYTES, len(self._map)) - at)
            self._fetched[first:stop] = b"\1" * (stop - first)


class MappedFiles:
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
