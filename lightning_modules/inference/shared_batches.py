"""Batches of chunks of several songs, which are separated in threads at the same time.

The last chunks of a song, and short songs, do not fill a batch alone; on a GPU a partly filled one
takes almost as long as a full one. Chunks then wait for those of the next song, which is only then
begun: at most as many songs are open as a batch has chunks, so that memory stays bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class _Request:
    """A chunk of a song's thread, and what becomes of it."""

    owner: int
    chunk: Tensor
    estimate: Tensor | None = None
    error: Exception | None = None


@dataclass(eq=False)
class _Queue:
    """Chunks of one shape that wait for one model."""

    forward: Forward
    size: int
    requests: list[_Request]


class SharedBatches:
    """Collects the chunks of several threads, each of which separates a song.

    Args:
        songs: Number of songs; each must call ``song`` once.
        at_once: Songs that may be open although nobody waits for their chunks.
    """

    def __init__(self, songs: int, at_once: int = 1) -> None:
        self._remaining, self._at_once = songs, at_once
        self._open = self._size = 0
        self._stopped = False
        self._queues: dict[Hashable, _Queue] = {}
        # The model runs under its lock: one batch at a time.
        self._changed = threading.Condition()

    @property
    def most_open(self) -> int:
        """Number of threads that songs can make use of."""
        return self._at_once + max(1, self._size) - 1

    def share(self, forward: Forward, size: int) -> Forward:
        """Return a function that maps chunks (B, C, T) as ``forward`` does, in shared batches.

        Args:
            forward: Maps chunks to estimates (B, S, C, T).
            size: Chunks per batch.
        """
        self._size = max(self._size, size)

        def shared(chunks: Tensor) -> Tensor:
            key = (forward, chunks.shape[1:], chunks.dtype, chunks.device)
            return self._separate(key, _Queue(forward, size, []), chunks)

        return shared

    @contextmanager
    def song(self) -> Iterator[None]:
        """Wait until the song of this thread may begin; it ends with the context.

        Raises:
            KeyboardInterrupt: ``stop`` was called.
        """
        with self._changed:
            self._changed.wait_for(self._may_begin)
            self._check_stopped()
            self._remaining -= 1
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Let all threads that wait raise ``KeyboardInterrupt``."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _check_stopped(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt

    def _may_begin(self) -> bool:
        missing = self._waiting() < self._size and self._all_wait()
        return self._stopped or self._open < self._at_once or missing

    def _waiting(self) -> int:
        """Number of waiting chunks."""
        return sum(len(queue.requests) for queue in self._queues.values())

    def _all_wait(self) -> bool:
        """Whether every open song waits for estimates."""
        queues = self._queues.values()
        owners = {request.owner for queue in queues for request in queue.requests}
        return len(owners) == self._open

    def _separate(self, key: Hashable, new: _Queue, chunks: Tensor) -> Tensor:
        mine = [_Request(threading.get_ident(), chunk) for chunk in chunks]
        with self._changed:
            self._queues.setdefault(key, new).requests += mine
            self._changed.notify_all()
            while any(each.estimate is None and each.error is None for each in mine):
                self._check_stopped()
                queue = self._ready()
                if queue is None:
                    self._changed.wait()
                    continue
                batch, queue.requests = queue.requests[: queue.size], queue.requests[queue.size :]
                _run(queue.forward, batch)
                self._changed.notify_all()
        for each in mine:
            if each.error is not None:
                raise each.error
        return torch.stack([each.estimate for each in mine if each.estimate is not None])

    def _ready(self) -> _Queue | None:
        """Return chunks that fill a batch; or the oldest, if no others can be expected."""
        queues = [queue for queue in self._queues.values() if queue.requests]
        full = [queue for queue in queues if len(queue.requests) >= queue.size]
        more = self._remaining and self._waiting() < self._size
        if not full and self._all_wait() and not more:
            full = queues
        return full[0] if full else None


def _run(forward: Forward, batch: Sequence[_Request]) -> None:
    """Run a model; if it fails, separately for each song, so that only the faulty one fails."""
    try:
        estimates = forward(torch.stack([request.chunk for request in batch]))
        for request, estimate in zip(batch, estimates, strict=True):
            request.estimate = estimate
    except Exception as error:
        owners = dict.fromkeys(request.owner for request in batch)
        for owner in owners:
            part = [request for request in batch if request.owner == owner]
            if len(owners) > 1:
                _run(forward, part)
                continue
            for request in part:
                request.error = error
