"""Likely causes of the death of a process by a signal."""

from __future__ import annotations

import signal

OUT_OF_MEMORY = "the system kills a process when memory runs out (`dmesg` shows it)"
LIKELY: dict[int, str] = {
    signal.SIGKILL: OUT_OF_MEMORY,
    signal.SIGBUS: "shared memory is full (`df -h /dev/shm`; a container gets more with "
    "--shm-size=8g), or a data file was truncated while it was being read",
}
"""Number of a signal -> what ends processes by it."""
