"""Flags that any rank may raise, combined over all ranks once per training batch."""

from __future__ import annotations

import torch
from torch import Tensor


class RankFlags:
    """Combines flags over ranks while the device works on: only ``read`` waits.

    On a GPU, ``read`` waits for what was queued before ``start``, not for what was queued
    since. So with a backward pass in between, the GPU has work during the wait.
    """

    def __init__(self) -> None:
        self._flags = torch.zeros(0)
        self._copied: torch.cuda.Event | None = None

    def start(self, on_device: Tensor, on_host: bool) -> None:
        """Start the all-reduce.

        Args:
            on_device: A boolean scalar on the training device.
            on_host: A flag of this process.
        """
        # torch.full fills on the device; copying a Python value there would wait for it.
        flags = torch.stack([on_device, torch.full_like(on_device, on_host)]).to(torch.int32)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        if flags.is_cuda:
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._flags = flags

    def read(self) -> tuple[bool, bool]:
        """Whether any rank raised the device's flag, and whether any raised the host's."""
        if self._copied is not None:
            self._copied.synchronize()
        on_device, on_host = self._flags.tolist()
        return bool(on_device), bool(on_host)
