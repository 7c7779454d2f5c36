"""Check of the global batch size against ranks, accumulation and the length of an epoch."""

from __future__ import annotations

from datamodules.errors import DataError, counted


def check_batch_size(batch_size: int, ranks: int, accumulated: int, examples: int) -> None:
    """Check that a global batch can be divided, and that an epoch has at least one.

    Args:
        batch_size: Global batch size: examples per optimiser step.
        ranks: Number of ranks.
        accumulated: Number of batches that each rank accumulates per step.
        examples: Number of examples in an epoch.

    Raises:
        DataError: The batch size is not a multiple of ranks x accumulated, or above the examples.
    """
    divisor = ranks * accumulated
    if batch_size % divisor:
        below = batch_size // divisor * divisor
        valid = " or ".join(str(size) for size in (below, below + divisor) if size > 0)
        times = f" times {accumulated} accumulated batches" if accumulated > 1 else ""
        raise DataError(
            f"batch_size is {batch_size}, the global batch size, and cannot be divided by "
            f"{counted(ranks, 'rank')}{times}; set --data.init_args.batch_size to {valid}"
        )
    if batch_size > examples:
        raise DataError(
            f"batch_size {batch_size} is larger than the epoch's "
            f"{counted(examples, 'example')}; lower "
            "--data.init_args.batch_size or set --data.init_args.examples_per_epoch"
        )
