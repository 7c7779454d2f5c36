"""Ranks that start at once: forked from a server that has imported torch and Lightning."""

from __future__ import annotations

import multiprocessing
from itertools import chain

import torch
from pytorch_lightning.strategies import DDPStrategy

# Whatever is imported there is shared by all processes forked from it; it never runs a thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [__name__, "datamodules.musdb", "lightning_modules.callbacks.bss_eval"]
)


class _OwnMemory(DDPStrategy):
    """Gives each rank its own weights, which Lightning does only for ranks it spawns."""

    def setup_environment(self) -> None:
        assert self.lightning_module is not None
        for tensor in chain(self.lightning_module.parameters(), self.lightning_module.buffers()):
            tensor.data = tensor.data.clone()
        super().setup_environment()


def several_ranks() -> DDPStrategy:
    """Strategy of a trainer with several devices; its model and data must be picklable."""
    # With a GPU Lightning refuses to fork, as this process may have used it.
    return _OwnMemory(start_method="spawn" if torch.cuda.is_available() else "forkserver")
