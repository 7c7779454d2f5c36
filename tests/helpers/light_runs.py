"""Stand-ins for the parts of a run that take most of its time: scoring and plots."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lightning_modules.callbacks import bss_eval
from lightning_modules.callbacks.samples import Samples
from lightning_modules.evaluation import scores
from lightning_modules.evaluation.bss_eval.engine import evaluate

_THREADS = "light-scoring"
_TAPS = 16  # of BSS Eval's filters, in place of 512


class ScoringThreads(ThreadPoolExecutor):
    """``ScoringPool`` with threads of this process, which start at once."""

    is_broken = False

    def __init__(self, processes: int, threads: int = 1, background: bool = False) -> None:
        super().__init__(processes, thread_name_prefix=_THREADS)
        self.processes = processes

    def terminate(self) -> None:
        """Drop the tracks that are waiting."""
        self.shutdown(cancel_futures=True)


def lighten(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the runs of this process, score in threads with short filters and draw no plots."""

    def evaluate_lightly(*arguments: Any, **settings: Any) -> Any:
        if threading.current_thread().name.startswith(_THREADS):
            settings["filters_len"] = _TAPS
        return evaluate(*arguments, **settings)

    monkeypatch.setattr(scores, "evaluate", evaluate_lightly)
    monkeypatch.setattr(bss_eval, "ScoringPool", ScoringThreads)
    monkeypatch.setattr(Samples, "_due", lambda callback, trainer: False)
