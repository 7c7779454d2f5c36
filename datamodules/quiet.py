"""Silence the output of libraries for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def quiet(threads: int | None = None) -> Iterator[None]:
    """Leave Lightning's notices out for a while, and give torch a number of threads.

    Args:
        threads: Threads of this process; by default they stay as many as they are.
    """
    former, notices = torch.get_num_threads(), logging.getLogger("pytorch_lightning")
    level = notices.level
    torch.set_num_threads(threads or former)
    notices.setLevel(logging.WARNING)
    try:
        yield
    finally:
        torch.set_num_threads(former)
        notices.setLevel(level)
