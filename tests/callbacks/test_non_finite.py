"""Batches with a non-finite loss are skipped and reported; many in a row end the run."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.lightning_internals import batches_done
from lightning_modules.callbacks.non_finite import LossError, SkipNonFinite, advice
from lightning_modules.runtime import signals

BATCHES = 8


class Separator(SourceSeparator):
    """Has a non-finite loss in given batches."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, bad: dict[int, float]) -> None:
        super().__init__(["vocals", "drums", "bass", "other"], segment_seconds=0.05)
        torch.manual_seed(0)
        self.bad = bad
        self.convolution = nn.Conv1d(2, 8, 3, padding=1)

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.unflatten(self.convolution(mixture), 1, (4, 2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        loss = (self(batch.mixture) - batch.targets).abs().mean()
        return {"loss": loss * self.bad.get(batches_done(self.trainer), 1.0)}


class Witness(Callback):
    """Records the weights after each batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights.append(nn.utils.parameters_to_vector(pl_module.parameters()).clone())


def train(
    root: Path, folder: Path, bad: dict[int, float], most_in_a_row: int = 10, accumulated: int = 1
) -> tuple[list[bool], Trainer, SkipNonFinite]:
    """Train; return for each batch whether the weights changed."""
    skip, witness = SkipNonFinite(most_in_a_row), Witness()
    model = Separator(bad)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    data = MUSDBDataModule(
        root=str(root),
        segment_seconds=0.05,
        batch_size=2 * accumulated,
        examples_per_epoch=2 * BATCHES,
        num_workers=0,
    )
    trainer = Trainer(
        max_epochs=1,
        default_root_dir=folder,
        accelerator="cpu",
        accumulate_grad_batches=accumulated,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[skip, witness],
    )
    trainer.fit(model, data)
    states = [before, *witness.weights]
    moved = [not torch.equal(*pair) for pair in pairwise(states)]
    assert states[-1].isfinite().all()
    return moved, trainer, skip


def test_a_non_finite_loss_skips_the_step(musdb_root: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"batch 2 is nan.*\(0, 4\) \(0, 5\). The step") as seen:
        moved, trainer, skip = train(musdb_root, tmp_path, {2: torch.nan, 5: torch.inf})
    assert any("batch 5 is inf: 1 in a row, 2 in total" in str(one.message) for one in seen)
    assert moved == [batch not in (2, 5) for batch in range(BATCHES)]
    assert trainer.callback_metrics["train/skipped_batches"] == 2
    again = SkipNonFinite()
    again.load_state_dict(skip.state_dict())
    assert (again.skipped, again.in_a_row) == (2, 0)


@pytest.mark.parametrize("bad", [2, 3])
def test_a_non_finite_loss_skips_the_accumulated_step(
    musdb_root: Path, tmp_path: Path, bad: int
) -> None:
    with pytest.warns(UserWarning, match="skipped"):
        moved, _, _ = train(musdb_root, tmp_path, {bad: torch.nan}, accumulated=2)
    assert [batch for batch in range(BATCHES) if moved[batch]] == [1, 5, 7]


def test_too_many_in_a_row_end_the_run(musdb_root: Path, tmp_path: Path) -> None:
    bad = {0: torch.nan, 1: torch.nan, **dict.fromkeys(range(3, 6), torch.nan)}
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(LossError) as error,
    ):
        train(musdb_root, tmp_path, bad, most_in_a_row=3)
    message = str(error.value)
    assert "batch 5 is nan: 3 in a row, 5 in total" in message
    assert "(0, 10) (0, 11)" in message
    assert "The weights are finite, and --ckpt_path last resumes before these" in message
    assert "gradient_clip_val" in message
    with pytest.raises(ValueError, match="most_in_a_row is 0"):
        SkipNonFinite(0)


def test_non_finite_weights_are_named() -> None:
    model = Separator({})
    nn.init.constant_(model.convolution.bias, torch.nan)  # type: ignore[arg-type]
    assert "not finite (convolution.bias)" in advice(model)


def test_stop_requests_use_the_reduction_of_the_loss() -> None:
    """With several ranks; without ``SkipNonFinite``, each batch has a reduction of its own."""
    reductions: list[bool] = []

    def reduce_boolean_decision(decision: bool, all: bool) -> bool:
        reductions.append(decision)
        return decision

    strategy = SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision)
    checkpoints, skip = Checkpoints(), SkipNonFinite()
    trainer: Any = SimpleNamespace(
        world_size=2, strategy=strategy, checkpoint_callbacks=[checkpoints], datamodule=None
    )
    model = Separator({})
    signals.install_handlers(signals.TERMINATE)
    for requested in (False, True):
        if requested:
            signal.raise_signal(signals.TERMINATE)
        skip.on_before_backward(trainer, model, torch.tensor(1.0))
        skip.on_after_backward(trainer, model)
        assert checkpoints.stops_after_batch(trainer) == requested
    assert not reductions
    assert checkpoints.stops_after_batch(trainer)
    assert reductions == [True]
    signals.restore_handlers()
