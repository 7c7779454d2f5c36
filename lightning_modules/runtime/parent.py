"""Processes that end when the process that started them has died."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

_SECONDS = 1.0


def exit_with_parent(parent: int, message: str = "") -> None:
    """Start a thread that ends this process soon after its parent has died.

    Args:
        parent: Process id of the parent.
        message: Printed on stderr before the end, if any.
    """
    threading.Thread(target=_watch, args=(parent, message), daemon=True).start()


def exit_now(status: int, message: str = "") -> None:
    """End this process and its worker processes from any thread, whatever they wait for."""
    if message:
        print(f"\n{message}", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _watch(parent: int, message: str) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    exit_now(1, message)
