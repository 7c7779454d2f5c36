"""Examples and tracks that each rank loads, and their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from datamodules.randomness import Position


class ExampleSampler(Sampler[Position]):
    """Positions of one rank's training examples, batch after batch.

    With the global batch size B, step k of an epoch contains the examples from k B up to, but
    without, (k + 1) B. Each rank loads its own consecutive part of them. An incomplete last batch
    is dropped, so that all ranks make the same number of steps.

    Args:
        examples: Number of examples in an epoch.
        batch_size: Global batch size, divisible by the number of ranks.
        rank: Index of this process.
        ranks: Number of processes.
        epoch: First epoch.
        batch: First batch of that epoch; later epochs begin at 0.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        epoch: int = 0,
        batch: int = 0,
    ) -> None:
        self.batches = examples // batch_size
        self.batch_size = batch_size
        self.rank_batch_size = batch_size // ranks
        self.rank = rank
        self.epoch, self.first_batch = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this before each one."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[Position]:
        for batch in range(self.first_batch, self.batches):
            start = batch * self.batch_size + self.rank * self.rank_batch_size
            for index in range(start, start + self.rank_batch_size):
                yield self.epoch, index

    def __len__(self) -> int:
        # Length of a whole epoch, also after resuming within an epoch, because Lightning adds the
        # batches done before.
        return self.batches * self.rank_batch_size


def share_by_length(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Distribute whole tracks over ranks by their total length.

    The longest remaining track goes to the rank with the least total length. No rank gets more than
    4/3 of the best possible maximum (Graham 1969, "Bounds on multiprocessing timing anomalies").

    Args:
        lengths: Length of each track, samples.
        ranks: Number of ranks.

    Returns:
        Sorted indices of each rank's tracks. A rank without a track repeats the shortest one,
        because Lightning requires data on every rank.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for number in longest_first:
        rank = totals.index(min(totals))
        shares[rank].append(number)
        totals[rank] += lengths[number]
    return [sorted(share) or longest_first[-1:] for share in shares]
