"""Memory of this process."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT_BYTES = 2**31 - 1  # the largest value


def reuse_freed_memory() -> bool:
    """Make malloc keep up to 2 GiB of freed memory for later tensors; for trainings on a CPU.

    By default glibc returns large blocks to the system at once, and each new tensor of more than
    32 MiB consists of new pages, which the system has to clear: up to half the time of a training
    step. Variables ``MALLOC_...`` and ``GLIBC_TUNABLES`` of the user take precedence.

    Returns:
        Whether it was set: not where the user has set something, nor without glibc.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_MAX, 0) and set_option(_TRIM_THRESHOLD, _KEPT_BYTES))


def current_memory() -> int:
    """Memory of this process that is now in use, bytes; where unknown, the peak."""
    return _memory("VmRSS")


def peak_memory() -> int:
    """Largest memory of this process so far, bytes, with the mapped files that are in use."""
    return _memory("VmHWM")


def _memory(name: str) -> int:
    if sys.platform == "linux":
        # getrusage's peak is inherited from the parent process.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
