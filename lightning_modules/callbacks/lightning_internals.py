"""Every use of Lightning's private names, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pytorch_lightning import Trainer

from datamodules.batches import TrackBatch
from datamodules.stream.datasets import WholeTracks


def batches_done(trainer: Trainer) -> int:
    """Number of training batches of the run that are through, on each rank."""
    done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    return done


def between_steps(trainer: Trainer) -> bool:
    """Whether no gradients are being accumulated, after a batch.

    Gradients of a half-accumulated step are in no checkpoint: under several ranks they differ
    from rank to rank.
    """
    return not trainer.fit_loop._should_accumulate()


def epoch_is_through(trainer: Trainer) -> bool:
    """Whether the batch at hand is the last of its epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation comes right after the batch at hand."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def disable_lightning_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning's own handlers off.

    They broadcast, save and requeue inside the signal, where a rank may be anywhere: ranks
    that are not in step then wait for each other for ever.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    # What those handlers would have told; asking all ranks before each batch costs a wait.
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    epoch_loop._broadcast_sigterm_tensor = lambda: None


def validation_tracks(trainer: Trainer) -> Iterator[TrackBatch]:
    """This rank's validation tracks, outside of a validation.

    Args:
        trainer: The trainer, while it trains.

    Yields:
        The tracks on the model's device.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    trainer.validating = True
    loop.setup_data()  # unless that was done
    trainer.training = True
    loaders: Any = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    for number, (loader, batches) in enumerate(zip(loaders, loop.max_batches, strict=True)):
        if isinstance(loader.dataset, WholeTracks):
            for track in islice(loader, int(batches)):
                yield trainer.strategy.batch_to_device(track, dataloader_idx=number)
