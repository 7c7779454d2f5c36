"""Silence libraries temporarily."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def quiet(threads: int | None = None) -> Iterator[None]:
    """Hide Lightning's notices, and set torch's number of threads if given, within a context."""
    former, notices = torch.get_num_threads(), logging.getLogger("pytorch_lightning")
    level = notices.level
    torch.set_num_threads(threads or former)
    notices.setLevel(logging.WARNING)
    try:
        yield
    finally:
        torch.set_num_threads(former)
        notices.setLevel(level)
