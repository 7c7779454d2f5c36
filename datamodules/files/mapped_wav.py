"""Memory-mapped WAV files: reading a crop accesses only the samples of the crop.

A WAV file of 16 or 32-bit integers or floats is an array of samples behind a header, so it is
memory-mapped instead of decoded. All workers and runs on a machine share the mapped pages.
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

from datamodules.command_line import program
from datamodules.errors import DataError
from datamodules.files.state import State, changed_error, check_same
from datamodules.files.wav import wav_header_of

# Maximum number of mapped files. Linux allows 65,530 mappings per process; libraries use a few
# thousand.
_OPEN_MAPPINGS = 16_384
# Size of the parts in which a file is prefetched, bytes.
_PART_BYTES = 32 * mmap.PAGESIZE


class MappedFile:
    """A WAV file's samples as a tensor, without a copy.

    Args:
        path: The file.
        expected: State of the file when it was checked; by default its current state.

    Attributes:
        samples: All samples, shape (T, C), in the file's own type; must not be modified.
    """

    def __init__(self, path: Path, expected: State | None = None) -> None:
        try:
            file = path.open("rb")
        except PermissionError as error:
            raise DataError(f"{path}: cannot be opened; check its permissions") from error
        except OSError as error:
            raise changed_error(path) from error
        with file:
            self._state = State.of(os.fstat(file.fileno()))
            if expected and not self._state.is_same(expected):
                raise changed_error(path)
            header = wav_header_of(file)
            dtype = header.dtype if header else None
            if header is None or dtype is None or not header.channels:
                raise DataError(
                    f"{path}: cannot be memory-mapped, expected WAV with 16 or 32-bit integers or "
                    f"floats; convert the data set with {program('datamodules.convert')}"
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._path, self._offset = path, header.offset
        self._frame_bytes = dtype.itemsize * header.channels
        sample_bytes = header.present if header.declared is None else header.declared
        frames = min(sample_bytes, header.present) // self._frame_bytes
        array = np.frombuffer(self._map, dtype, frames * header.channels, offset=header.offset)
        # One byte per part: 1 if it was prefetched since pages were last evicted.
        self._prefetched = bytearray(-(-len(self._map) // _PART_BYTES))
        self._major_faults = 0
        with warnings.catch_warnings():
            # torch has no read-only tensors and warns about read-only arrays.
            warnings.simplefilter("ignore", UserWarning)
            self.samples = torch.from_numpy(array).view(frames, header.channels)

    def crop(self, start: int, samples: int) -> Tensor:
        """Return a part as a view, shape (samples, C), after checking that the file is unchanged.

        Reading a mapping of a file that was truncated kills the process (SIGBUS). This can still
        happen if the file is truncated in the microseconds to milliseconds between the check and
        the reading of the samples. The loader then reports the death of the worker; it never
        returns wrong samples or hangs. Copying by ``read`` would avoid this, but doubles the time.

        Args:
            start: First sample.
            samples: Number of samples; a part that exceeds the end of the file is shorter.
        """
        check_same(self._path, self._state)
        begin = self._offset + start * self._frame_bytes
        self._prefetch(begin, min(begin + samples * self._frame_bytes, len(self._map)))
        return self.samples[start : start + samples]

    def _prefetch(self, begin: int, end: int) -> None:
        """Prefetch bytes in one request instead of page by page.

        A call of ``madvise`` takes a tenth of the time of copying a crop. Each part of the file is
        therefore prefetched only once, and again after a major page fault, which shows that pages
        were evicted.
        """
        major_faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        if major_faults != self._major_faults:
            self._major_faults = major_faults
            self._prefetched = bytearray(len(self._prefetched))
        first, stop = begin // _PART_BYTES, -(-end // _PART_BYTES)
        if self._prefetched.find(0, first, stop) >= 0:
            start = first * _PART_BYTES
            length = min(stop * _PART_BYTES, len(self._map)) - start
            self._map.madvise(mmap.MADV_WILLNEED, start, length)
            self._prefetched[first:stop] = b"\1" * (stop - first)


class MappedFiles:
    """Files that are mapped on first use; with too many, the least recently used one is closed.

    Args:
        states: State of each file when it was checked; a file in another state is an error.
    """

    def __init__(self, states: Mapping[Path, State] | None = None) -> None:
        self._states = states or {}
        self._files: OrderedDict[Path, MappedFile] = OrderedDict()

    def crop(self, path: Path, start: int, samples: int) -> Tensor:
        """Return a part of a file, as `MappedFile.crop` does."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = MappedFile(path, self._states.get(path))
            if len(self._files) > _OPEN_MAPPINGS:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(path)
        return file.crop(start, samples)

    def __getstate__(self) -> dict[str, object]:
        # Mappings cannot be pickled; each process maps the files itself.
        return {"_states": self._states, "_files": OrderedDict()}
