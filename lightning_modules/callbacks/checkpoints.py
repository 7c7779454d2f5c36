"""Which states of a run are kept: the best ones, the last one, and the one at a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_modules import signals


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

    Ctrl-C, SIGTERM and SIGUSR1 (what SLURM sends ahead of the time limit) end the run
    after the batch or the validation at hand and leave its state in ``last.ckpt``; a second
    Ctrl-C ends it at once.

    Args:
        monitor: Metric that tells which are best. In ``val/sdr`` a source for which BSS
            Eval has no figure counts with its uSDR here.
        mode: ``max`` or ``min``: which values are better.
        save_top_k: How many of the best to keep.
        **kwargs: Further arguments of Lightning's ``ModelCheckpoint``.
    """

    def __init__(
        self,
        monitor: str = "val/sdr",
        mode: str = "max",
        save_top_k: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            filename="epoch_{epoch:03d}-step_{step:06d}",
            auto_insert_metric_name=False,
            save_last=True,
            # One file of each name: a resumed run goes on with the names it had.
            enable_version_counter=False,
            **kwargs,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the directory; loggers have no say in it."""
        self.dirpath = str(Path(trainer.default_root_dir).resolve() / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        if self.monitor == "val/sdr":
            candidates |= _whole_sdr(candidates)
        return candidates

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.monitor and self.monitor not in monitor_candidates:
            # No validation since the start: only the last state is kept.
            self._save_last_checkpoint(trainer, monitor_candidates)
            return
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.best_model_path and self.dirpath:
            link = str(Path(self.dirpath) / "best.ckpt")
            self._link_checkpoint(trainer, self.best_model_path, link)

    # --------------------------------------------------------------- signals

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals in hand."""
        signals.listen(*signals.STOP)
        _disarm_lightning(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        signals.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back, but not while a run that they stopped comes to its end."""
        super().on_exception(trainer, pl_module, exception)
        if not isinstance(exception, Interrupted):
            signals.release()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is due, and when a signal came."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._stop_agreed(trainer):
            self._save_and_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when it is due, and when a signal came: the scores are worth the wait."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and self._stop_agreed(trainer):
            candidates = self._monitor_candidates(trainer)
            if self._last_global_step_saved != trainer.global_step:
                self._save_topk_checkpoint(trainer, candidates)
            self._save_and_stop(trainer)

    def _stop_agreed(self, trainer: Trainer) -> bool:
        # Any rank may have had the signal, and all of them must stop at the same batch.
        mine = signals.received is not None
        agreed: bool = trainer.strategy.reduce_boolean_decision(mine, all=False)
        return agreed

    def _save_and_stop(self, trainer: Trainer) -> None:
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        raise Interrupted(Path(self.last_model_path))


def _disarm_lightning(trainer: Trainer) -> None:
    """Keep Lightning's own handlers off.

    They broadcast, save and requeue inside the signal, where a rank may be anywhere: ranks
    that are not in step then wait for each other for ever.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    # What those handlers would have told; asking all ranks before each batch costs a wait.
    epoch_loop: Any = trainer.fit_loop.epoch_loop
    epoch_loop._broadcast_sigterm_tensor = lambda: None


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
