"""A data loader whose workers write batches directly into shared memory.

PyTorch's own loader allocates a tensor per example, stacks them, and passes each batch through a
new shared-memory file; most of its time goes into page faults. Here all batches live in a ring of
slots that is allocated once. A worker fills a slot and returns its index; the batch is a view of
the slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batches import StemBatch
from datamodules.randomness import Position
from datamodules.stream.sampler import ExampleSampler
from datamodules.stream.workers import explain_worker_death

_PREFETCH = 2
# Beyond the workers' slots: one batch in use, one prefetched by Lightning, one in between.
_SPARE_SLOTS = 3


class Examples(Protocol):
    """Writes examples into slots, in the workers."""

    dtype: torch.dtype

    @property
    def shape(self) -> Sequence[int]:
        """Shape of the largest example."""

    def shape_at(self, epoch: int) -> Sequence[int]:
        """Shape of the examples of an epoch."""

    def fill(self, target: Tensor, position: Position) -> None:
        """Write the example at a position into a tensor of its shape."""


class RingLoader(DataLoader[Any]):
    """Batches of examples in a ring of slots in shared memory.

    A batch is overwritten after the next two batches have been returned: use or copy it before. A
    copy to a GPU is waited for (see ``note_copy``).

    Args:
        examples: Writes the examples.
        sampler: Positions of this rank's examples.
        num_workers: Number of worker processes; with 0 the main process fills the slots.
        worker_init_fn: Called in each worker with its index.
    """

    def __init__(
        self,
        examples: Examples,
        sampler: ExampleSampler,
        num_workers: int = 0,
        worker_init_fn: Callable[[int], None] | None = None,
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
            worker_init_fn=worker_init_fn,
        )
        if torch.cuda.is_available():
            _pin(self.ring)

    def __iter__(self) -> Iterator[StemBatch]:  # type: ignore[override]
        try:
            for slot, positions in super().__iter__():
                batch = self._slots.view(slot, positions[0][0])
                yield StemBatch(batch, torch.tensor(positions))
        except RuntimeError as error:
            if explained := explain_worker_death(error):
                raise explained from error
            raise

    def note_copy(self, batch: Tensor) -> None:
        """Note that a copy of a batch of this loader to a GPU has started.

        Copies from pinned memory are asynchronous; the slot is not filled again before the copy has
        finished.
        """
        self._copies.note(batch.storage_offset() // self.ring.stride(0))


class _PendingCopies:
    """Asynchronous copies to a GPU that may not have finished.

    Separate from the loader, so that the sampler does not refer to the loader: in a reference cycle
    the garbage collector would finalise the loader without telling its workers to end, and wait.
    """

    def __init__(self, slots: int) -> None:
        self._events: list[torch.cuda.Event | None] = [None] * slots

    def note(self, slot: int) -> None:
        event = torch.cuda.Event()
        event.record()
        self._events[slot] = event

    def wait(self, slot: int) -> None:
        event = self._events[slot]
        if event is not None:
            event.synchronize()
            self._events[slot] = None


class _SlotDataset(Dataset[tuple[int, list[Position]]]):
    """Fills the slots, in the workers."""

    def __init__(self, ring: Tensor, examples: Examples) -> None:
        self.ring, self.examples = ring, examples

    def view(self, slot: int, epoch: int) -> Tensor:
        """Batch in a slot; examples smaller than the largest are contiguous at its beginning."""
        memory = self.ring[slot]
        shape = (len(memory), *self.examples.shape_at(epoch))
        return memory.view(-1)[: math.prod(shape)].view(shape)

    def __getitem__(self, task: tuple[int, list[Position]]) -> tuple[int, list[Position]]:
        slot, positions = task
        for example, position in zip(self.view(slot, positions[0][0]), positions, strict=True):
            self.examples.fill(example, position)
        return task


class _SlotSampler(Sampler[tuple[int, list[Position]]]):
    """Assigns the positions of each batch to the next slot of the ring."""

    def __init__(self, sampler: ExampleSampler, slots: int, copies: _PendingCopies) -> None:
        self.sampler, self.slots, self.copies = sampler, slots, copies
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, list[Position]]]:
        positions = iter(self.sampler)  # whole batches
        while batch := list(islice(positions, self.sampler.rank_batch_size)):
            slot = self._next
            # Continues over epochs: the last batch of an epoch may still be in use.
            self._next = (slot + 1) % self.slots
            self.copies.wait(slot)
            yield slot, batch

    def __len__(self) -> int:
        return len(self.sampler) // self.sampler.rank_batch_size


def _pin(tensor: Tensor) -> None:
    """Pin a shared tensor's pages, so that the GPU copies from them directly."""
    status = torch.cuda.cudart().cudaHostRegister(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), 0
    )
    if int(status) != 0:
        # Unpinned copies are only slower.
        torch.cuda.cudart().cudaGetLastError()
