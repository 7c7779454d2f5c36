"""Several averages of the weights: which one is validated, saved and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import SGD

from datamodules.musdb import MUSDBDataModule
from lightning_modules.callbacks.best_ema import BestEMA
from lightning_modules.callbacks.checkpoints import Checkpoints
from tests.helpers.separators import Gains

SOURCES = ["vocals", "drums", "bass", "other"]


class Losses(Callback):
    """Records the validation's metrics."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append({name: float(v) for name, v in trainer.callback_metrics.items()})


def fit(root: Path, folder: Path, epochs: int, worse: bool, checkpoint: Path | None = None) -> Any:
    optimizer = partial(SGD, lr=1.0, maximize=worse)
    model = Gains(SOURCES, gain=0.9, segment_seconds=0.2, optimizer=optimizer)
    data = MUSDBDataModule(
        root=str(root), segment_seconds=0.2, batch_size=4, examples_per_epoch=16,
        validation_crops_per_track=2, num_workers=0,
    )  # fmt: skip
    averages, losses = BestEMA([0.99, 0.5], [0.0], warm_up=False), Losses()
    Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[averages, losses, Checkpoints("val/loss", "min")],
    ).fit(model, data, ckpt_path=checkpoint, weights_only=True)
    return model, averages, losses.seen


@pytest.mark.slow
@pytest.mark.parametrize(("worse", "best"), [(False, 2), (True, 0)])
def test_the_average_with_the_lowest_loss_is_validated_saved_and_resumed(
    musdb_root: Path, tmp_path: Path, worse: bool, best: int
) -> None:
    """With steps that lower the loss the newest weights are best, with others the oldest."""
    torch.manual_seed(0)
    model, averages, seen = fit(musdb_root, tmp_path / "a", 2, worse)
    last = tmp_path / "a/checkpoints/last.ckpt"
    again, resumed, more = fit(musdb_root, tmp_path / "b", 3, worse, last)
    whole, whole_averages, all_seen = fit(musdb_root, tmp_path / "c", 3, worse)
    names = ["val/ema/step_0.99", "val/ema/step_0.5", "val/ema/epoch_0"]
    for metrics in seen:
        values = [metrics[name] for name in names]
        assert values.index(min(values)) == best
        assert metrics["val/loss"] == pytest.approx(min(values), rel=1e-6)
    saved = torch.load(last, weights_only=True)
    assert torch.equal(saved["state_dict"]["gains"], model.gains)
    assert averages.best == resumed.best == best
    # A resumed run ends like one without an interruption, in all averages.
    assert more[-1] == all_seen[-1]
    assert torch.equal(again.gains, whole.gains)
    for ours, theirs in zip(
        resumed.averages.values(), whole_averages.averages.values(), strict=True
    ):
        assert torch.equal(ours.average.module.gains, theirs.average.module.gains)


@pytest.mark.parametrize(("steps", "epochs"), [([0.9], []), ([0.9, 0.9], []), ([], [])])
def test_less_than_two_averages_raise(steps: list[float], epochs: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two different averages"):
        BestEMA(steps, epochs)
