"""Which states of a run are saved and when: the best ones, the last one, the one at a signal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from datamodules.files.writing import remove_unfinished, writing
from lightning_modules.callbacks.lightning_internals import (
    CheckpointBase,
    batches_done,
    between_steps,
    disable_signal_handlers,
    is_last_batch_of_epoch,
    validation_follows,
)
from lightning_modules.checkpoints.files import BEST, link_best, remove_partial
from lightning_modules.runtime import signals

# With several ranks, checking the time is a collective: not at every step.
_STEPS_BETWEEN_TIME_CHECKS = 10


class Interrupted(SystemExit):
    """The run was ended by a signal after its state was saved.

    Attributes:
        checkpoint: The checkpoint to resume from.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(signals.exit_status())
        self.checkpoint = checkpoint


class Checkpoints(CheckpointBase):
    """Keep the best checkpoints, ``best.ckpt`` and ``last.ckpt`` in ``checkpoints/`` of the run.

    The best are chosen after each validation. ``last.ckpt`` is written after each validation
    or epoch, at the end, and by steps or time between them, but never while gradients are
    accumulated. The one before it is kept as ``previous.ckpt``.

    Where the metric to choose by comes later than the validation (``BSSEval`` with
    ``blocking: false``), the validated state is saved at once under its own name, and kept as
    one of the best or removed when its score is known.

    Ctrl-C, SIGTERM, SIGUSR1 (which SLURM sends before the time limit) and SIGHUP (of a
    terminal that is closed) end the run after the current batch or validation and save its
    state as ``last.ckpt``; a second Ctrl-C ends it at once.

    Args:
        monitor: Metric that decides which checkpoint is best. In ``val/sdr``, a source for which
            BSS Eval has no score counts with its uSDR here.
        mode: ``max`` or ``min``: which values are better.
        save_top_k: How many of the best to keep.
        save_every_n_steps: Write ``last.ckpt`` at every n-th optimiser step.
        save_every_seconds: Write ``last.ckpt`` when this time has passed since the last one;
            checked at every tenth step.
    """

    def __init__(
        self,
        monitor: str = "val/sdr",
        mode: str = "max",
        save_top_k: int = 3,
        save_every_n_steps: int | None = None,
        save_every_seconds: float | None = 600.0,
    ) -> None:
        if save_every_n_steps is not None and save_every_n_steps < 1:
            raise ValueError(f"save_every_n_steps is {save_every_n_steps}: give 1 or more")
        if save_every_seconds is not None and save_every_seconds < 0:
            raise ValueError(f"save_every_seconds is {save_every_seconds}: give 0 or more")
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            filename="epoch_{epoch:03d}-step_{step:06d}",
            auto_insert_metric_name=False,
            save_last=True,
            # A resumed run overwrites files of the same name.
            enable_version_counter=False,
        )
        self.save_every_n_steps = save_every_n_steps
        self.save_every_seconds = save_every_seconds
        self.stop_agreed: bool | None = None
        """Set by ``SkipNonFinite``: whether any rank had received a signal in this batch."""
        self.awaits_scores = False
        """Set by ``BSSEval``: the scores of this validation come later."""
        self._saved_at_batch = 0
        self._saved_at_seconds = 0.0
        self._overdue = False
        # Whether the state could be saved now: after an optimiser step, before the next batch.
        self._between_batches = False
        # Files to remove once last.ckpt no longer lists them among the best.
        self._to_remove: list[str] = []
        # A checkpoint that exists already and whose scores have now come.
        self._scored_late = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder, independent of loggers; remove half-written files."""
        folder = Path(trainer.default_root_dir).resolve() / "checkpoints"
        self.dirpath = str(folder)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            remove_partial(folder)
            remove_unfinished(folder.parent)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the list of the best, also if the run's directory was moved."""
        assert self.dirpath is not None
        here = Path(self.dirpath)
        moved = {"dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            name = Path(state_dict[key]).name
            moved[key] = str(here / name) if name else ""
        best = {str(here / Path(path).name): v for path, v in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best})
        self.current_score = state_dict["current_score"]

    # ------------------------------------------------------ which are the best

    def monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """Metrics to choose by and to name files with."""
        return self._with_complete_sdr(super().monitor_candidates(trainer))

    def _with_complete_sdr(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        return metrics | (complete_sdr(metrics) if self.monitor == "val/sdr" else {})

    def save_best(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """Save a checkpoint if it is among the best."""
        # Without the metric, as when nothing is validated, only the last state is kept.
        if self.monitor in monitor_candidates:
            super().save_best(trainer, monitor_candidates)
            if trainer.is_global_zero and self.best_model_path:
                best = Path(self.best_model_path)
                with writing(best.with_name(BEST), best):
                    link_best(best)

    def choose(self, trainer: Trainer, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Rank a checkpoint that was saved before its scores were known; all ranks call it.

        Without ``monitor`` in the metrics, the checkpoint is removed.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        candidates = {name: torch.tensor(value) for name, value in metrics.items()}
        candidates |= {"epoch": torch.tensor(epoch), "step": torch.tensor(step)}
        self._scored_late = self.format_checkpoint_name(candidates)
        self.save_best(trainer, self._with_complete_sdr(candidates))
        is_best = self._scored_late in self.best_k_models
        if not is_best and self.may_remove(trainer, self._scored_late):
            self._to_remove.append(self._scored_late)
        self._scored_late = ""
        self._overdue = True

    # ------------------------------------------------------------ writing files

    def write(self, trainer: Trainer, filepath: str) -> None:
        """Write one checkpoint file."""
        if filepath == self._scored_late:
            return  # the file exists, and the weights have changed since
        super().write(trainer, filepath)
        self._saved_at_batch, self._saved_at_seconds = batches_done(trainer), time.monotonic()
        self._overdue = False

    def remove(self, trainer: Trainer, filepath: str) -> None:
        """Remove a file after the next ``last.ckpt`` is written."""
        self._to_remove.append(filepath)

    def save_latest(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """Save ``last.ckpt``, then remove the files that it no longer lists."""
        super().save_latest(trainer, monitor_candidates)
        while self._to_remove:
            super().remove(trainer, self._to_remove.pop())

    # ------------------------------------------------------------ when to save

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count batches and seconds from here."""
        self._saved_at_batch, self._saved_at_seconds = batches_done(trainer), time.monotonic()
        self._overdue = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step has begun."""
        self._between_batches = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when due; save and stop after a signal."""
        if not between_steps(trainer):
            return
        due, stops = self._is_due(trainer), self.stops_after_batch(trainer)
        if due or stops:
            self.save_latest(trainer, self.monitor_candidates(trainer))
        if stops:
            raise Interrupted(Path(self.last_model_path))
        # Otherwise hooks of a validation or of the epoch's end are still to run.
        self._between_batches = not (validation_follows(trainer) or is_last_batch_of_epoch(trainer))

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether to save after this batch, which ends an optimiser step."""
        validates = validation_follows(trainer)
        if trainer.fast_dev_run or (is_last_batch_of_epoch(trainer) and not validates):  # type: ignore[attr-defined]
            return False  # hooks at the epoch's end are still to run: see on_train_epoch_end
        step = trainer.global_step
        by_steps = self.save_every_n_steps is not None and step % self.save_every_n_steps == 0
        ends = step == trainer.max_steps and not validates
        return self._overdue or by_steps or ends or self._is_due_by_time(trainer)

    def _is_due_by_time(self, trainer: Trainer) -> bool:
        if self.save_every_seconds is None or trainer.global_step % _STEPS_BETWEEN_TIME_CHECKS:
            return False
        passed = time.monotonic() - self._saved_at_seconds
        due: bool = trainer.strategy.broadcast(passed >= self.save_every_seconds)
        return due

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best and the last; stop after a signal, which waits for the scores."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        candidates = self.monitor_candidates(trainer)
        if not self.awaits_scores:
            self.save_best(trainer, candidates)
        elif self.save_top_k != 0:
            self.write(trainer, self.format_checkpoint_name(candidates))
        self.awaits_scores = False
        self.save_latest(trainer, candidates)
        if self._any_rank_stops(trainer):
            raise Interrupted(Path(self.last_model_path))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save an epoch without a validation after the next batch, or at the end of the run."""
        self._overdue = self._saved_at_batch != batches_done(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch if it had no validation, or if scores came late."""
        if self._overdue and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_latest(trainer, self.monitor_candidates(trainer))

    # ----------------------------------------------------------------- signals

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note stop signals instead of being ended by them."""
        signals.install_handlers(*signals.STOP)
        disable_signal_handlers(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the former signal handlers."""
        signals.restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the former signal handlers, but not while a stopped run shuts down.

        If data cannot be read, save the state after the last step.
        """
        if isinstance(exception, Exception):
            self._save_between_batches(trainer)
        if not isinstance(exception, Interrupted):
            signals.restore_handlers()
            if isinstance(exception, Exception) and trainer.world_size > 1:
                # Launchers send it after another rank has failed; the error is printed before.
                signals.ignore(signals.TERMINATE)

    def _save_between_batches(self, trainer: Trainer) -> None:
        """Save ``last.ckpt`` after an error between two batches.

        Not with several ranks, which save together: the others are at another place.
        """
        done = batches_done(trainer)
        if not self._between_batches or trainer.world_size > 1 or done == self._saved_at_batch:
            return
        self._between_batches = False
        try:
            self.save_latest(trainer, self.monitor_candidates(trainer))
        except Exception as error:  # must not hide the first error
            print(f"The state after batch {done} could not be saved: {error}", file=sys.stderr)
            return
        print(f"The state after batch {done} is saved in {self.last_model_path}", file=sys.stderr)

    def stops_after_batch(self, trainer: Trainer) -> bool:
        """Whether to stop after this batch; all ranks return the same.

        Any rank may receive a signal, at any moment. ``SkipNonFinite`` sends it along with its
        own all-reduce; without that callback, each batch costs an all-reduce here.
        """
        agreed, self.stop_agreed = self.stop_agreed, None
        if agreed is None or trainer.world_size == 1:
            return self._any_rank_stops(trainer)
        return agreed

    def _any_rank_stops(self, trainer: Trainer) -> bool:
        """Whether any rank has received a signal by now; all ranks must call it."""
        received = signals.received is not None
        stops: bool = trainer.strategy.reduce_boolean_decision(received, all=False)
        return stops


def complete_sdr(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean SDR over all sources, to choose checkpoints by.

    BSS Eval has no score for a source whose estimate is silent, so that the mean
    over the others would reward silence. Such a source counts with its uSDR, 0 dB;
    where BSS Eval cannot run at all, every source does. Returns ``val/sdr``, or nothing
    without ``val/usdr`` of any source.
    """
    prefix = "val/usdr/"
    values = []
    for name, usdr in metrics.items():
        if name.startswith(prefix):
            sdr = metrics.get(f"val/sdr/{name.removeprefix(prefix)}")
            values.append(usdr if sdr is None or torch.isnan(sdr) else sdr)
    known = [value for value in values if not torch.isnan(value)]
    return {"val/sdr": torch.stack(known).mean()} if known else {}
