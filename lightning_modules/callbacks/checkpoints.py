"""Which states of a run are kept: the best ones, the last one, and the one at a signal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_modules.callbacks.lightning_internals import (
    batches_done,
    between_steps,
    disable_lightning_signal_handlers,
    epoch_is_through,
    validation_follows,
)
from lightning_modules.checkpoints.files import link_best, remove_partial
from lightning_modules.runtime import signals

# Under several ranks a look at the clock is a word between them: not at every step.
_STEPS_BETWEEN_LOOKS = 10


class Interrupted(SystemExit):
    """Ended by a signal after the state was saved.

    Attributes:
        checkpoint: Where a resumed run begins.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(signals.exit_status())
        self.checkpoint = checkpoint


class Checkpoints(ModelCheckpoint):
    """Keep the best checkpoints, ``best.ckpt`` and ``last.ckpt`` in ``checkpoints/`` of the run.

    The best are chosen after each validation. ``last.ckpt`` is written after each validation
    or epoch, at the end, and by steps or time between them; only when no gradients are
    half accumulated. The one before it is kept as ``previous.ckpt``.

    Where the figure to choose by comes later than the validation (``BSSEval`` with
    ``blocking: false``), the validated state is saved at once and waits for it under its own
    name, to become one of the best or to be removed.

    Ctrl-C, SIGTERM and SIGUSR1 (what SLURM sends ahead of the time limit) end the run
    after the batch or the validation at hand and leave its state in ``last.ckpt``; a second
    Ctrl-C ends it at once.

    Args:
        monitor: Metric that tells which are best. In ``val/sdr`` a source for which BSS
            Eval has no figure counts with its uSDR here.
        mode: ``max`` or ``min``: which values are better.
        save_top_k: How many of the best to keep.
        save_every_n_steps: Write ``last.ckpt`` at every n-th step of the optimiser.
        save_every_seconds: Write it when this time has passed since the last one; looked
            at every tenth step.
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
            # One file of each name: a resumed run goes on with the names it had.
            enable_version_counter=False,
        )
        self.save_every_n_steps = save_every_n_steps
        self.save_every_seconds = save_every_seconds
        self._saved_at_batch = 0
        self._saved_at_seconds = 0.0
        self._overdue = False
        # Files whose removal waits until last.ckpt does not speak of them any more.
        self._outdone: list[str] = []
        # The one that has waited for its figures, and the next one's figures are to come later.
        self._chosen = ""
        self.awaits_scores = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the directory, in which loggers have no say; remove half-written files."""
        folder = Path(trainer.default_root_dir).resolve() / "checkpoints"
        self.dirpath = str(folder)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            remove_partial(folder)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what is best, also in a run's directory that was moved.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        assert self.dirpath is not None
        here = Path(self.dirpath)
        moved = {"dirpath": self.dirpath}
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            name = Path(state_dict[key]).name
            moved[key] = str(here / name) if name else ""
        best = {str(here / Path(path).name): v for path, v in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best})
        self.current_score = state_dict["current_score"]

    # ------------------------------------------------------------ what is saved

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        return self._with_whole_sdr(super()._monitor_candidates(trainer))

    def _with_whole_sdr(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        return metrics | (_whole_sdr(metrics) if self.monitor == "val/sdr" else {})

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        # Without a figure, as when nothing is validated, only the last state is kept.
        if self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
            self._link_best(trainer)

    def choose(self, trainer: Trainer, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Choose by figures that came late, on all ranks: the state that they are of is saved.

        Args:
            trainer: The trainer.
            metrics: The figures by name; without the one that is monitored, the state is given up.
            epoch: Epoch of the validation.
            step: Steps of the optimiser by then.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        candidates = {name: torch.tensor(value) for name, value in metrics.items()}
        candidates |= {"epoch": torch.tensor(epoch), "step": torch.tensor(step)}
        self._chosen = self.format_checkpoint_name(candidates)
        self._save_topk_checkpoint(trainer, self._with_whole_sdr(candidates))
        if self._chosen not in self.best_k_models and self._should_remove_checkpoint(
            trainer, self._chosen, ""
        ):
            self._outdone.append(self._chosen)
        self._chosen = ""
        self._overdue = True

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._outdone.append(filepath)

    def _save_last_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        while self._outdone:
            super()._remove_checkpoint(trainer, self._outdone.pop())

    def _link_best(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.best_model_path:
            link_best(Path(self.best_model_path))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if filepath == self._chosen:
            return  # it was saved after its validation, and the weights have moved on
        super()._save_checkpoint(trainer, filepath)
        self._saved_at_batch, self._saved_at_seconds = batches_done(trainer), time.monotonic()
        self._overdue = False

    # ------------------------------------------------------------ when

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing to save."""
        self._saved_at_batch, self._saved_at_seconds = batches_done(trainer), time.monotonic()
        self._overdue = False

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether it is time to save, after a batch and between steps."""
        validates = validation_follows(trainer)
        if trainer.fast_dev_run or (epoch_is_through(trainer) and not validates):  # type: ignore[attr-defined]
            return False  # what belongs to the epoch's end is yet to come: see on_train_epoch_end
        step = trainer.global_step
        by_steps = self.save_every_n_steps is not None and step % self.save_every_n_steps == 0
        ends = step == trainer.max_steps and not validates
        return self._overdue or by_steps or ends or self._by_time(trainer)

    def _by_time(self, trainer: Trainer) -> bool:
        if self.save_every_seconds is None or trainer.global_step % _STEPS_BETWEEN_LOOKS:
            return False
        passed = time.monotonic() - self._saved_at_seconds
        due: bool = trainer.strategy.broadcast(passed >= self.save_every_seconds)
        return due

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have an epoch without a validation saved once it has come to its end."""
        self._overdue = self._saved_at_batch != batches_done(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch if it had no validation, or late scores."""
        if self._overdue and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    # --------------------------------------------------------------- signals

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals in hand."""
        signals.install_handlers(*signals.STOP)
        disable_lightning_signal_handlers(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        signals.restore_handlers()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back, but not while a run that they stopped comes to its end."""
        super().on_exception(trainer, pl_module, exception)
        if not isinstance(exception, Interrupted):
            signals.restore_handlers()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is due, and when a signal came."""
        if not between_steps(trainer):
            return
        due, stops = self._is_due(trainer), self._stop_agreed(trainer)
        if due or stops:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if stops:
            raise Interrupted(Path(self.last_model_path))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when it is due, and when a signal came: the scores are worth the wait."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        candidates = self._monitor_candidates(trainer)
        if not self.awaits_scores:
            self._save_topk_checkpoint(trainer, candidates)
        elif self.save_top_k != 0:
            self._save_checkpoint(trainer, self.format_checkpoint_name(candidates))
        self.awaits_scores = False
        self._save_last_checkpoint(trainer, candidates)
        if self._stop_agreed(trainer):
            raise Interrupted(Path(self.last_model_path))

    def _stop_agreed(self, trainer: Trainer) -> bool:
        # Any rank may have had the signal, and all of them must stop at the same batch.
        mine = signals.received is not None
        agreed: bool = trainer.strategy.reduce_boolean_decision(mine, all=False)
        return agreed


def _whole_sdr(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean SDR with nothing left out, to choose checkpoints by.

    BSS Eval has no figure for a source whose estimate is silent, so that the mean
    over the others would reward silence. Such a source counts with its uSDR, 0 dB;
    where BSS Eval cannot run at all, every source does.
    """
    prefix = "val/usdr/"
    values = []
    for name, usdr in metrics.items():
        if name.startswith(prefix):
            sdr = metrics.get(f"val/sdr/{name.removeprefix(prefix)}")
            values.append(usdr if sdr is None or torch.isnan(sdr) else sdr)
    heard = [value for value in values if not torch.isnan(value)]
    return {"val/sdr": torch.stack(heard).mean()} if heard else {}
