"""Hides what C libraries print while they decode audio."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0
_shown: int | None = None  # value of C's `stderr` while it is replaced


@contextmanager
def hidden() -> Iterator[None]:
    """Hide what C libraries print to ``stderr``, such as libmpg123's notes on damaged MP3s.

    C's variable ``stderr`` points to /dev/null in the meantime. File descriptor 2 is untouched:
    redirecting it would also swallow progress bars and messages of other threads, and child
    processes would inherit it. Python and C++ write to the descriptor without this variable.
    Threads may overlap; the last one restores it. Hold it for single calls only.
    """
    global _users, _shown
    variable, null = _variable, _null
    if variable is None or null is None:
        yield
        return
    with _lock:
        if _users == 0:
            _shown, variable.value = variable.value, null
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                variable.value = _shown


def _find() -> tuple[ctypes.c_void_p | None, int | None]:
    """Return C's variable ``stderr`` and a stream to /dev/null; None where it is a constant."""
    name = {"Linux": "stderr", "Darwin": "__stderrp"}.get(platform.system())
    if name is None or (name == "stderr" and platform.libc_ver()[0] != "glibc"):
        return None, None
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    null = library.fopen(os.devnull.encode(), b"w")
    return ctypes.c_void_p.in_dll(library, name), null


def _restore_in_child() -> None:
    """A process may be forked while another thread hides messages; that thread is not copied."""
    global _users, _lock
    _lock = threading.Lock()
    if _users and _variable is not None:
        _users, _variable.value = 0, _shown


_variable, _null = _find()
os.register_at_fork(after_in_child=_restore_in_child)
