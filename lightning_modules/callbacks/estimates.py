"""What ``predict`` leaves behind: the estimates as audio files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter

from lightning_modules.base import SourceSeparator
from lightning_modules.stem_files import StemFiles


class EstimatesWriter(BasePredictionWriter):
    """Write predictions to ``estimates/<track>/<source>.wav`` in the run's directory."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one track's estimates."""
        estimates = prediction["estimates"].cpu().numpy()
        assert isinstance(pl_module, SourceSeparator)
        folder = Path(trainer.default_root_dir) / "estimates" / prediction["name"]
        with StemFiles(
            folder, pl_module.sources, prediction["sample_rate"], estimates.shape[1], force=True
        ) as files:
            files.write(estimates)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        trainer.print(f"Estimates are in {Path(trainer.default_root_dir) / 'estimates'}")
