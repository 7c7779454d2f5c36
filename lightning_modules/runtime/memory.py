"""Memory of this process."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path


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
