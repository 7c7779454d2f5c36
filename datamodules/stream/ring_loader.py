"""A loader whose workers write into shared memory and hand over nothing but a number.

An ordinary loader makes a tensor per example, stacks them, and passes each batch
through a file of shared memory made for it: most of its time goes into fresh
pages. Here the batches live in a ring of slots that is allocated once. A worker
fills the slot it is told and returns; the batch is a view of the slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batches import StemBatch
from datamodules.randomness import Position
from datamodules.stream.sampler import ExampleSampler

Fill = Callable[[Tensor, Position], None]
"""Writes the example at a position into a tensor of the shape of an example."""

_PREFETCH = 2
# Beyond what the workers are at: one batch in use, one fetched ahead by Lightning, one between.
_SPARE_SLOTS = 3


class ReaderDiedError(RuntimeError):
    """A worker died; the message tells why that happens and what to do."""


def reader_death(error: BaseException) -> ReaderDiedError | None:
    """Put into words that a worker died.

    torch raises in the main process as soon as it knows, whatever is being done there.

    Args:
        error: What was raised.

    Returns:
        The error to raise in its place; None if it is about something else.
    """
    if isinstance(error, ReaderDiedError) or "DataLoader worker" not in str(error):
        return None
    return ReaderDiedError(
        f"a process that reads data died ({str(error).strip()}); the system ends one where memory "
        "runs out (Killed), or where a file was cut short while it was being read (Bus error). "
        "Mend that, and go on with --ckpt_path last; fewer --data.init_args.num_workers need less "
        "memory"
    )


class RingLoader(DataLoader[Any]):
    """Batches of examples in a shared ring.

    A batch is overwritten after the next two have been handed out: use it or copy
    it before. A copy to a GPU is waited for (see ``copied``).

    Args:
        fill: Writes one example; runs in the workers.
        shape: Shape of an example, of the largest if they differ.
        dtype: Type of its values.
        sampler: Positions of this rank's examples; ``share`` of them make a batch.
        num_workers: Processes; 0 fills the slots in this one.
        worker_init_fn: Called in each worker with its number.
        shape_at: Gives the shape of an epoch's examples, if it changes.
    """

    def __init__(
        self,
        fill: Fill,
        shape: Sequence[int],
        dtype: torch.dtype,
        sampler: ExampleSampler,
        num_workers: int = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        shape_at: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        slots = num_workers * _PREFETCH + _SPARE_SLOTS
        self.ring = torch.empty(slots, sampler.share, *shape, dtype=dtype).share_memory_()
        self._copies = _Copies(slots)
        self._slots = _SlotDataset(self.ring, fill, shape_at)
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
            told = reader_death(error)
            if told is None:
                raise
            raise told from error

    def copied(self, batch: Tensor) -> None:
        """Note that a copy of a batch to a GPU has been started.

        Copies from pinned memory go on behind the program's back; the slot is not
        filled again before this one is through.

        Args:
            batch: The stems of a batch of this loader, as they were handed out.
        """
        slot = batch.storage_offset() // self.ring.stride(0)
        self._copies.note(slot)


class _Copies:
    """Copies to a GPU that may still be going on.

    Apart from the loader, lest the sampler refer back to it: a loader in a circle of references
    is taken apart in an order in which its workers are not told to end, and waited for in vain.
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
    """Fills a slot, in a worker."""

    def __init__(
        self, ring: Tensor, fill: Fill, shape_at: Callable[[int], Sequence[int]] | None
    ) -> None:
        self.ring, self.fill, self.shape_at = ring, fill, shape_at

    def view(self, slot: int, epoch: int) -> Tensor:
        """The batch in a slot: smaller examples fill its beginning, without gaps."""
        whole = self.ring[slot]
        if self.shape_at is None:
            return whole
        shape = (len(whole), *self.shape_at(epoch))
        return whole.view(-1)[: math.prod(shape)].view(shape)

    def __getitem__(self, turn: tuple[int, list[Position]]) -> tuple[int, list[Position]]:
        slot, positions = turn
        for example, position in zip(self.view(slot, positions[0][0]), positions, strict=True):
            self.fill(example, position)
        return turn


class _SlotSampler(Sampler[tuple[int, list[Position]]]):
    """Deals the positions of each batch out to the slots in turn."""

    def __init__(self, sampler: ExampleSampler, slots: int, copies: _Copies) -> None:
        self.sampler, self.slots, self.copies = sampler, slots, copies
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, list[Position]]]:
        batch: list[Position] = []
        for position in self.sampler:
            batch.append(position)
            if len(batch) == self.sampler.share:
                slot = self._next
                # Slots go on in turn from epoch to epoch: the last batch may still be in use.
                self._next = (slot + 1) % self.slots
                self.copies.wait(slot)
                yield slot, batch
                batch = []

    def __len__(self) -> int:
        return len(self.sampler) // self.sampler.share


def _pin(tensor: Tensor) -> None:
    """Lock a shared tensor's pages, so that the GPU copies from them directly."""
    status = torch.cuda.cudart().cudaHostRegister(
        tensor.data_ptr(), tensor.numel() * tensor.element_size(), 0
    )
    if int(status) != 0:
        # Slower copies, nothing else.
        torch.cuda.cudart().cudaGetLastError()
