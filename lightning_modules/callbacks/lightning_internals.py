"""Every use of Lightning's private names; test_lightning_internals.py fails if they change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
    ModelSummary,
    RichModelSummary,
    TQDMProgressBar,
    WeightAveraging,
)
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher, subprocess_script
from torch import nn
from torch.optim.swa_utils import AveragedModel

from datamodules.batches import TrackBatch
from datamodules.stream.datasets import WholeTracks
from lightning_modules.configuration.messages import SettingError

# ------------------------------------------------------------------ position


def batches_done(trainer: Trainer) -> int:
    """Number of training batches processed since the start of the run, on each rank."""
    done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    return done


def logged_step(trainer: Trainer) -> int:
    """The step under which Lightning logs the metrics of the current batch or validation."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def between_steps(trainer: Trainer) -> bool:
    """Whether no gradients are being accumulated, after a batch.

    No checkpoint holds the gradients of a half-accumulated step: they differ between ranks.
    """
    return not trainer.fit_loop._should_accumulate()


def is_last_batch_of_epoch(trainer: Trainer) -> bool:
    """Whether the current batch is the last of its epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation follows the current batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


# ------------------------------------------------------------------- signals


def disable_signal_handlers(trainer: Trainer) -> None:
    """Disable Lightning's own signal handlers.

    They broadcast, save and requeue inside the handler, where ranks may be at different
    batches, and then wait for each other for ever.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    # Broadcasts before each batch whether a handler was called, which costs a collective.
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    epoch_loop._broadcast_sigterm_tensor = lambda: None


# ---------------------------------------------------------------- validation


def validation_tracks(trainer: Trainer) -> Iterator[TrackBatch]:
    """This rank's validation tracks on the model's device, outside a validation."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    trainer.validating = True
    loop.setup_data()  # does nothing if the loaders exist
    trainer.training = True
    loaders: Any = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    for number, (loader, batches) in enumerate(zip(loaders, loop.max_batches, strict=True)):
        if isinstance(loader.dataset, WholeTracks):
            for track in islice(loader, int(batches)):
                yield trainer.strategy.batch_to_device(track, dataloader_idx=number)


# -------------------------------------------------------------------- resume


def resumable_counters(trainer: Trainer, counters: dict[str, Any]) -> bool:
    """Rewrite the counters of the training loop so that Lightning resumes from them correctly.

    They are ``checkpoint["loops"]["fit_loop"]``, and those of the batches are correct already
    within an epoch and after a validation. Returns whether only the epoch's end is left of it.
    """
    batches = counters["epoch_loop.batch_progress"]
    validation = counters["epoch_loop.val_loop.batch_progress"]
    epochs = counters["epoch_progress"]
    in_batch = batches["current"]["completed"] < batches["current"]["processed"]
    validates = in_batch and validation_follows(trainer)
    awaits_end = in_batch and not validates and is_last_batch_of_epoch(trainer)
    epoch_is_over = epochs["current"]["processed"] == epochs["current"]["ready"]
    started = int(validates)
    for part in ("total", "current"):
        # Count a validation that is about to start as started, and forget one that has ended.
        validation[part].update(ready=started, started=started, processed=0, completed=0)
        if validates or awaits_end:
            batches[part]["completed"] = batches[part]["processed"]
        if epoch_is_over:
            epochs[part]["completed"] = epochs[part]["processed"]
    validation["is_last_batch"] = False
    if awaits_end:
        counters["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    if epoch_is_over:
        # A run that ended by steps and gets more of them resumes at the next epoch's first batch.
        batches["current"].update(ready=0, started=0, processed=0, completed=0)
        batches["is_last_batch"] = False
    return awaits_end


def restore_loops(trainer: Trainer, awaits_end: bool) -> None:
    """At the start of a resumed training, restore what the loops have reset.

    ``awaits_end`` is the return value of ``resumable_counters``.
    """
    # With all batches done, Lightning would otherwise fetch one more before it validates.
    trainer.fit_loop.epoch_loop.val_loop._has_run = awaits_end
    # While it is set, a scheduler that monitors a metric misses a step at the epoch's end.
    trainer.fit_loop._restarting = False


def set_batches_of_epoch(trainer: Trainer, number: int) -> None:
    """Set the number of batches of an epoch that is resumed at its end.

    Lightning would otherwise train further batches if the epoch has more than before.
    """
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    if current.ready:
        for name in ("ready", "started", "processed", "completed"):
            setattr(current, name, number)


def finish_resumed_epoch(trainer: Trainer) -> None:
    """Start the next epoch from its first batch, also if no batch of this one was left."""
    trainer.fit_loop.epoch_loop.on_iteration_done()


# ----------------------------------------------- base classes with public names


class CheckpointBase(ModelCheckpoint):
    """``ModelCheckpoint`` with public names for its steps, to call and to override."""

    monitor_candidates = ModelCheckpoint._monitor_candidates
    save_best = ModelCheckpoint._save_topk_checkpoint
    save_latest = ModelCheckpoint._save_last_checkpoint
    write = ModelCheckpoint._save_checkpoint
    remove = ModelCheckpoint._remove_checkpoint

    def may_remove(self, trainer: Trainer, path: str) -> bool:
        """Whether a checkpoint is the run's own, and not the one that it was resumed from."""
        return self._should_remove_checkpoint(trainer, path, "")

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.write(trainer, filepath)

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.remove(trainer, filepath)


class ProgressBarBase(TQDMProgressBar):
    """``TQDMProgressBar`` that makes all its bars by one public method."""

    def make_bar(self, make: Callable[[], Tqdm]) -> Tqdm:
        """Make a bar with Lightning's function."""
        raise NotImplementedError

    def init_train_tqdm(self) -> Tqdm:
        """Make the bar of an epoch."""
        return self.make_bar(super().init_train_tqdm)

    def init_validation_tqdm(self) -> Tqdm:
        """Make the bar of a validation."""
        return self.make_bar(super().init_validation_tqdm)

    def init_test_tqdm(self) -> Tqdm:
        """Make the bar of a test."""
        return self.make_bar(super().init_test_tqdm)

    def init_predict_tqdm(self) -> Tqdm:
        """Make the bar of separated tracks."""
        return self.make_bar(super().init_predict_tqdm)

    def bars(self) -> list[Tqdm]:
        """The bars that were made."""
        names = ("train", "val", "test", "predict")
        made = (getattr(self, f"_{name}_progress_bar") for name in names)
        return [bar for bar in made if bar is not None]


class WeightAveragingBase(WeightAveraging):
    """``WeightAveraging`` of weights alone, with public access to the average."""

    copy_average_to = WeightAveraging._copy_average_to_current

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average. The rest of the model, which leads to the trainer, is not copied."""
        if stage == "fit":
            self._average_model = AveragedModel(
                weights_of(pl_module), pl_module.device, use_buffers=True, **self._kwargs
            )

    @property
    def average(self) -> AveragedModel | None:
        """The averaged model; None before ``setup`` of a training."""
        return self._average_model


def weights_of(module: nn.Module, made: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A plain module that holds the parameters and buffers of another under the same names."""
    made = {} if made is None else made
    if module in made:  # a network that is used twice
        return made[module]
    holder = made[module] = nn.Module()
    for name, parameter in module._parameters.items():
        holder.register_parameter(name, parameter)
    for name, buffer in module._buffers.items():
        persistent = name not in module._non_persistent_buffers_set
        holder.register_buffer(name, buffer, persistent)
    for name, child in module._modules.items():
        holder.add_module(name, child and weights_of(child, made))
    return holder


class CLIBase(LightningCLI):
    """``LightningCLI`` that explains bad seeds and keeps checkpoints out of the config."""

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise SettingError(f"seed_everything: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Skip merging hyperparameters: the checkpoint is compared with the config later."""


def is_default_summary(callback: Any) -> bool:
    """Whether a callback is the summary that Lightning adds if none is configured."""
    return type(callback) in (ModelSummary, RichModelSummary) and callback._max_depth == 1


# ------------------------------------------------------------ loggers, strategies


def drop_anonymous(logger: Logger) -> None:
    """Remove the argument ``anonymous`` of ``wandb.init``: W&B warns that it is deprecated."""
    arguments: dict[str, Any] = getattr(logger, "_wandb_init", {})
    arguments.pop("anonymous", None)


def copies_this_process(strategy: Any) -> bool:
    """Whether a strategy starts its ranks by forking or pickling this process (ddp_spawn)."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)


def observe_ranks(observer: Callable[[Sequence[subprocess.Popen[bytes]]], None]) -> None:
    """Replace what watches the ranks that Lightning starts.

    Its own observer kills all ranks, this one included, without a reason.
    """
    subprocess_script._launch_process_observer = observer  # type: ignore[attr-defined,assignment]


def has_checkpoint_io(strategy: Any) -> bool:
    """Whether a strategy was built with a way to write checkpoints of its own."""
    return getattr(strategy, "_checkpoint_io", None) is not None
