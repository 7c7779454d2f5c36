"""The ring loader: complete batches in order, for any number of workers."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.randomness import Position
from datamodules.stream.ring_loader import RingLoader
from datamodules.stream.sampler import ExampleSampler


def fill(target: Tensor, position: Position) -> None:
    """Write the position into all elements, slowly enough that a race would show."""
    epoch, index = position
    for row in target:
        row.fill_(1000 * epoch + index)


@dataclass
class FakeExamples:
    """Examples whose last dimension may depend on the epoch."""

    shape: tuple[int, ...] = (64, 500)
    fill: Callable[[Tensor, Position], None] = fill
    lengths: Mapping[int, int] | None = None
    dtype = torch.float32

    def shape_at(self, epoch: int) -> tuple[int, ...]:
        return (*self.shape[:-1], self.lengths[epoch]) if self.lengths else self.shape


def loader(examples: int = 40, num_workers: int = 2) -> RingLoader:
    return RingLoader(FakeExamples(), ExampleSampler(examples, 4), num_workers)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_are_complete_and_in_order(num_workers: int) -> None:
    ring = loader(400, num_workers)
    for epoch in range(3):
        ring.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for step, batch in enumerate(ring):
            assert batch.positions.tolist() == [[epoch, 4 * step + i] for i in range(4)]
            for i, example in enumerate(batch.stems):
                assert (example == 1000 * epoch + 4 * step + i).all()
        assert step == 99
    assert len(ring) == 100


def test_batch_is_kept_while_the_next_two_are_fetched() -> None:
    """Lightning uses one batch and has fetched the next, while the workers continue."""
    iterator = iter(loader(400))
    held = [next(iterator), next(iterator), next(iterator)]
    for _ in range(97):
        for batch in held:
            for example, (_, index) in zip(batch.stems, batch.positions.tolist(), strict=True):
                assert (example == index).all()
        held = [*held[1:], next(iterator)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_example_lengths_may_change_with_the_epoch(num_workers: int) -> None:
    """Short examples are contiguous at the beginning of their slot."""
    lengths = {0: 20, 1: 500, 2: 7}
    ring = RingLoader(FakeExamples(lengths=lengths), ExampleSampler(40, 4), num_workers)
    for epoch, length in lengths.items():
        ring.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for step, batch in enumerate(ring):
            assert batch.stems.shape == (4, 64, length)
            assert batch.stems.is_contiguous()
            assert batch.stems.storage_offset() % ring.ring.stride(0) == 0
            for i, example in enumerate(batch.stems):
                assert (example == 1000 * epoch + 4 * step + i).all()
        assert step == 9


def test_batches_are_views_of_one_allocation() -> None:
    ring = loader()
    first = ring.ring.untyped_storage().data_ptr()
    assert all(batch.stems.untyped_storage().data_ptr() == first for batch in ring)
    assert ring.ring.is_shared()


def test_next_epoch_is_complete_after_an_interrupted_one() -> None:
    ring = loader(400)
    for number, _ in enumerate(ring):
        if number == 5:
            break
    ring.sampler.set_epoch(1)  # type: ignore[attr-defined]
    for step, batch in enumerate(ring):
        assert (batch.stems[0] == 1000 + 4 * step).all()


@pytest.mark.slow
def test_death_of_a_worker_is_explained() -> None:
    def deadly(target: Tensor, position: Position) -> None:
        if position[1] == 22:
            os.kill(os.getpid(), signal.SIGKILL)
        target.zero_()

    examples = FakeExamples((2,), deadly)
    ring = RingLoader(examples, ExampleSampler(400, 4), num_workers=2)
    with pytest.raises(
        RuntimeError, match=r"process that loads data .* memory runs out.*--ckpt_path last"
    ):
        list(ring)


def test_other_errors_are_raised_unchanged() -> None:
    def faulty(target: Tensor, position: Position) -> None:
        raise RuntimeError("out of luck")

    ring = RingLoader(FakeExamples((2,), faulty), ExampleSampler(8, 4))
    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        list(ring)


def test_slot_is_not_filled_before_its_copy_has_finished() -> None:
    ring = loader(num_workers=0)
    waited: list[bool] = []

    class Copy:
        def synchronize(self) -> None:
            waited.append(bool((ring.ring[1] == 0).all()))

    ring.ring.zero_()
    ring._copies._events[1] = Copy()  # type: ignore[call-overload]
    batches = iter(ring)
    next(batches)
    assert not waited
    next(batches)
    assert waited == [True], "it waits before anything is written"
    assert (ring.ring[1] != 0).all()
    assert ring._copies._events[1] is None


def test_workers_end_with_the_loader() -> None:
    """A loader in a reference cycle would be finalised too late, by the garbage collector."""
    ring = loader()
    list(ring)
    gone = weakref.ref(ring)
    workers = ring._iterator._workers  # type: ignore[union-attr]
    assert all(worker.is_alive() for worker in workers)
    gc.disable()
    try:
        del ring
        assert gone() is None
        assert [worker.exitcode for worker in workers] == [0, 0], "ended, not killed"
    finally:
        gc.enable()


def test_shared_memory_is_released() -> None:
    before = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    ring = loader()
    list(ring)
    del ring
    if before or Path("/dev/shm").is_dir():
        left = {p.name for p in set(Path("/dev/shm").iterdir()) - before}
        assert not [name for name in left if name.startswith("torch")]
