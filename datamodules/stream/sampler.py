"""Which examples a rank loads, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from datamodules.randomness import Position


def share_by_length(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Share out whole tracks, so that no rank has much more music than another.

    The longest track that is left goes to the rank that has the least so far: no rank gets more
    than 4/3 of what the best division would give the fullest one (Graham 1969, "Bounds on
    multiprocessing timing anomalies").

    Args:
        lengths: Length of each track, samples.
        ranks: Number of ranks.

    Returns:
        Numbers of each rank's tracks, in their order. A rank for which none is left repeats the
        shortest one, because Lightning wants work for every rank.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for number in longest_first:
        rank = loads.index(min(loads))
        shares[rank].append(number)
        loads[rank] += lengths[number]
    return [sorted(share) or longest_first[-1:] for share in shares]


class ExampleSampler(Sampler[Position]):
    """The positions that one rank works through, batch after batch.

    Step k of the run holds examples k B to (k + 1) B of the epoch, B being the
    global batch size; each rank takes its own consecutive share of them. An
    incomplete last batch is left out, so that all ranks take as many steps.

    Args:
        examples: Number of examples in an epoch.
        batch_size: Global batch size, divisible by the number of ranks.
        rank: Number of this process.
        ranks: Number of processes.
        epoch: Epoch to begin with.
        batch: Batch of that epoch to begin with; later epochs begin at 0.
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
        self.share = batch_size // ranks
        self.rank = rank
        self.epoch, self.first_batch = epoch, batch

    def set_epoch(self, epoch: int) -> None:
        """Move to another epoch; Lightning calls it before each."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[Position]:
        for batch in range(self.first_batch, self.batches):
            start = batch * self.batch_size + self.rank * self.share
            for index in range(start, start + self.share):
                yield self.epoch, index

    def __len__(self) -> int:
        # The whole epoch even when it begins in the middle: Lightning counts on from there.
        return self.batches * self.share
