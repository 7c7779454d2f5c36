"""Which states of a run are kept: the best ones, the last one, and the one at Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor


class Interrupted(SystemExit):
    """Ended by Ctrl-C after the state was saved.

    Attributes:
        checkpoint: Where a resumed run begins.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(130)  # what shells report for Ctrl-C
        self.checkpoint = checkpoint


class Checkpoints(ModelCheckpoint):
    """Keep the best checkpoints, ``best.ckpt`` and ``last.ckpt`` in ``checkpoints/`` of the run.

    Ctrl-C ends the run after the batch at hand and leaves its state in
    ``last.ckpt``; a second Ctrl-C ends it at once.

    Args:
        monitor: Metric that tells which are best. Where BSS Eval cannot run,
            ``val/sdr`` does not exist and ``val/usdr`` takes its place.
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
            filename="epoch_{epoch:03d}",
            auto_insert_metric_name=False,
            save_last=True,
            # One file of each name: a resumed run goes on with the names it had.
            enable_version_counter=False,
            **kwargs,
        )
        self._stop = False
        self._previous_handler: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the directory; loggers have no say in it."""
        self.dirpath = str(Path(trainer.default_root_dir).resolve() / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        if self.monitor == "val/sdr" and "val/usdr" in candidates:
            sdr = candidates.get("val/sdr")
            if sdr is None or torch.isnan(sdr):
                candidates["val/sdr"] = candidates["val/usdr"]
        return candidates

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.monitor and self.monitor not in monitor_candidates:
            # An epoch without a validation, as after a Ctrl-C in one: only the last state is kept.
            self._save_last_checkpoint(trainer, monitor_candidates)
            return
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.best_model_path and self.dirpath:
            link = str(Path(self.dirpath) / "best.ckpt")
            self._link_checkpoint(trainer, self.best_model_path, link)

    # ---------------------------------------------------------------- Ctrl-C

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take Ctrl-C in hand."""
        self._stop = False
        self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give Ctrl-C back."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        # Only a flag: in the middle of a step the weights are in no state to be saved.
        self._stop = True
        print("\nCtrl-C: saving after this batch; once more to stop at once.", flush=True)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is due, and when Ctrl-C was pressed."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save when Ctrl-C was pressed: a validation can take long."""
        # Several ranks have unlike numbers of tracks, so they can only agree at the end.
        if trainer.state.fn == "fit" and trainer.world_size == 1:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when it is due, and when Ctrl-C was pressed."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        # Any rank may have had the signal, and all of them must stop at the same batch.
        if trainer.strategy.reduce_boolean_decision(self._stop, all=False):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            raise Interrupted(Path(self.last_model_path))
