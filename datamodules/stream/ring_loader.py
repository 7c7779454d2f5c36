"""Data loader whose workers write batches directly into shared memory.

PyTorch's own loader allocates a tensor per example, stacks them, and passes each batch through a
new shared-memory file. Most of its time is spent on page faults. Here all batches are in a ring
buffer of slots that is allocated once. A worker fills a slot and returns its index; the batch is a
view of the slot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batches import StemBatch
from datamodules.randomness import Position
from datamodules.stream.sampler import ExampleSampler
from datamodules.stream.workers import (
    defer_worker_deaths,
    explain_worker_error,
    ignore_signals,
    raise_worker_death,
    stop_signals_blocked,
)

_PREFETCH = 2
# Slots in addition to those of the workers: one batch is used by the model, one is prefetched by
# Lightning, and one is on its way between them.
_SPARE_SLOTS = 3


class ExampleWriter(Protocol):
    """Writes examples into given tensors; called in the workers."""

    dtype: torch.dtype

    @property
    def shape(self) -> Sequence[int]:
        """Shape of the largest example."""

    def shape_at(self, epoch: int) -> Sequence[int]:
        """Shape of the examples of an epoch."""

    def fill(self, target: Tensor, position: Position) -> None:
        """Write the example at ``position`` into ``target``, of the shape ``shape_at(epoch)``."""


class WorkerLoader(DataLoader[Any]):
    """Data loader whose ``worker_init_fn`` is ``ignore_signals``: no signal comes before it."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with stop_signals_blocked():
            return super().__iter__()


class RingLoader(WorkerLoader):
    """Loads batches of examples into a ring buffer in shared memory.

    A batch is valid until the next two batches have been returned; use or copy it before. The
    loader waits for copies to a GPU before it fills a slot again (see ``record_copy``).

    Args:
        examples: Writes the examples.
        sampler: Positions of this rank's examples.
        num_workers: Number of worker processes; with 0 the main process fills the slots.
    """

    def __init__(
        self,
        examples: ExampleWriter,
        sampler: ExampleSampler,
        num_workers: int = 0,
    ) -> None:
        slots = num_workers * _PREFETCH + _SPARE_SLOTS
        shape = (slots, sampler.rank_batch_size, *examples.shape)
        self.ring = torch.empty(shape, dtype=examples.dtype).share_memory_()
        self._copies = _PendingCopies(slots)
        self._slots = _SlotDataset(self.ring, examples)
        super().__init__(
            self._slots,
            sampler=_SlotSampler(sampler, slots, self._copies),
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=_PREFETCH if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=ignore_signals,
        )
        if torch.cuda.is_available():
            _pin(self.ring)

    def __iter__(self) -> Iterator[StemBatch]:  # type: ignore[override]
        tasks = super().__iter__()
        defer_worker_deaths()
        while True:
            raise_worker_death()
            try:
                slot, positions = next(tasks)
            except StopIteration:
                return
            except Exception as error:
                if explained := explain_worker_error(error):
                    raise explained from error
                raise
            batch = self._slots.view(slot, positions[0][0])
            yield StemBatch(batch, torch.tensor(positions))

    def record_copy(self, batch: Tensor) -> None:
        """Record that a copy of a batch of this loader to a GPU has started.

        Copies from pinned memory are asynchronous. The loader waits for the copy to finish before
        it fills the slot again.
        """
        self._copies.record(batch.storage_offset() // self.ring.stride(0))


class _PendingCopies:
    """Asynchronous copies to a GPU that may not have finished.

    A class of its own, so that the sampler does not refer to the loader. In a reference cycle the
    garbage collector would finalise the loader without first telling its workers to end, and would
    wait for them.
    """

    def __init__(self, slots: int) -> None:
        self._events: list[torch.cuda.Event | None] = [None] * slots

    def record(self, slot: int) -> None:
        event = torch.cuda.Event()
        event.record()
        self._events[slot] = event

    def wait(self, slot: int) -> None:
        event = self._events[slot]
        if event is not None:
            event.synchronize()
            self._events[slot] = None


class _SlotDataset(Dataset[tuple[int, list[Position]]]):
    """Fills a slot for each item; used in the workers."""

    def __init__(self, ring: Tensor, examples: ExampleWriter) -> None:
        self.ring, self.examples = ring, examples

    def view(self, slot: int, epoch: int) -> Tensor:
        """Batch in a slot, as a view; shorter crops occupy only the beginning of the slot."""
        memory = self.ring[slot]
        shape = (len(memory), *self.examples.shape_at(epoch))
        return memory.view(-1)[: math.prod(shape)].view(shape)

    def __getitem__(self, task: tuple[int, list[Position]]) -> tuple[int, list[Position]]:
        slot, positions = task
        for example, position in zip(self.view(slot, positions[0][0]), positions, strict=True):
            self.examples.fill(example, position)
        return task


class _SlotSampler(Sampler[tuple[int, list[Position]]]):
    """Yields (slot, positions) for each batch; the slots are used in turn."""

    def __init__(self, sampler: ExampleSampler, slots: int, copies: _PendingCopies) -> None:
        self.sampler, self.slots, self.copies = sampler, slots, copies
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, list[Position]]]:
        positions = iter(self.sampler)  # whole batches
        while batch := list(islice(positions, self.sampler.rank_batch_size)):
            slot = self._next
            # Not reset between epochs, because the last batch of an epoch may still be in use.
            self._next = (slot + 1) % self.slots
            self.copies.wait(slot)
            yield slot, batch

    def __len__(self) -> int:
        return len(self.sampler) // self.sampler.rank_batch_size


def _pin(tensor: Tensor) -> None:
    """Pin (page-lock) a shared tensor's memory, so that the GPU copies from it directly."""
    status = torch.cuda.cudart().cudaHostRegister(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), 0
    )
    if int(status) != 0:
        # Clear the error: copies from unpinned memory work too, only slower.
        torch.cuda.cudart().cudaGetLastError()
