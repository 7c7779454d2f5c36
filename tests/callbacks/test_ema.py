"""The average of the weights: its formula, and its validation, saving and loading."""

from __future__ import annotations

import copy
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel

from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.unet import UNet
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.ema import EMA
from lightning_modules.checkpoints.loading import load_separator

SOURCES = ["vocals", "drums", "bass", "other"]
BATCHES, EPOCHS = 4, 3


class Witness(Callback):
    """Records the weights after each batch and the validation losses."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights.append(copy.deepcopy(pl_module.state_dict()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


class Run(NamedTuple):
    """A training.

    Attributes:
        witness: Its recorded weights and losses.
        checkpoints: Folder of its checkpoints.
        model: The model after the training.
        data: Its data.
        every: When the average was updated.
    """

    witness: Witness
    checkpoints: Path
    model: UNet
    data: MUSDBDataModule
    every: str


def trainer(folder: Path, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_epochs=EPOCHS,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
    )


def train(root: Path, folder: Path, every: Any) -> Run:
    seed_everything(0)
    witness = Witness()
    checkpoints = Checkpoints("val/loss", "min", save_top_k=EPOCHS)
    model = UNet(SOURCES, **UNet.tiny, segment_seconds=0.2, optimizer=partial(Adam, lr=0.02))
    data = MUSDBDataModule(
        root=str(root),
        segment_seconds=0.2,
        batch_size=4,
        examples_per_epoch=4 * BATCHES,
        validation_crops_per_track=2,
        num_workers=0,
    )
    trainer(folder, EMA(0.8, every), witness, checkpoints).fit(model, data)
    return Run(witness, folder / "checkpoints", model, data, every)


@pytest.fixture(scope="module", params=["step", "epoch"])
def run(
    request: pytest.FixtureRequest, musdb_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    return train(musdb_root, tmp_path_factory.mktemp("ema"), request.param)


def averaged(weights: list[dict[str, Tensor]], decay: float, warm_up: bool) -> dict[str, Tensor]:
    """The average by its formula, in double precision."""
    average: dict[str, Tensor] = {}
    for updates, state in enumerate(weights, start=-1):
        for name, value in state.items():
            if updates < 0 or not value.is_floating_point():
                average[name] = value.double()
                continue
            done = updates + 1
            now = min(decay, (1 + done) / (10 + done)) if warm_up else decay
            average[name] = now * average[name] + (1 - now) * value.double()
    return average


@pytest.mark.slow
def test_checkpoints_hold_the_average_and_the_weights(run: Run) -> None:
    seen = run.witness.weights
    updated = seen if run.every == "step" else seen[BATCHES - 1 :: BATCHES]
    last = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert last["averaging_state"]["n_averaged"] == len(updated)
    expected = averaged(updated, 0.8, warm_up=True)
    for name, value in last["state_dict"].items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    for name, value in last["current_model_state"].items():
        assert torch.equal(value, seen[-1][name])
    # Statistics of batch normalisation are averaged too, its counter and constants are not.
    names = [name for name in expected if name.endswith("running_var")]
    assert names
    assert all(not torch.equal(last["state_dict"][n], seen[-1][n]) for n in names)
    counter = next(name for name in expected if name.endswith("num_batches_tracked"))
    assert last["state_dict"][counter] == EPOCHS * BATCHES
    assert torch.equal(last["state_dict"]["source_weights"], seen[-1]["source_weights"])


def validation_loss(model: SourceSeparator, data: MUSDBDataModule) -> float:
    with torch.no_grad():
        (batch,) = list(data.val_dataloader()[0])
        return float(model.eval().loss(batch)["loss"])


@pytest.mark.slow
def test_the_validated_average_is_saved_as_best_and_loaded(run: Run) -> None:
    best = torch.load(run.checkpoints / "best.ckpt", weights_only=True)
    assert min(run.witness.losses) == pytest.approx(
        validation_loss(load_separator(run.checkpoints / "best.ckpt"), run.data), rel=1e-6
    )
    raw = load_separator(run.checkpoints / "best.ckpt")
    raw.load_state_dict(best["current_model_state"])
    assert validation_loss(raw, run.data) != pytest.approx(min(run.witness.losses), rel=1e-3)
    # After the training the model holds the average.
    assert validation_loss(run.model, run.data) == pytest.approx(run.witness.losses[-1], rel=1e-6)


@pytest.mark.slow
def test_validate_loads_the_average(run: Run, tmp_path: Path) -> None:
    model = UNet(SOURCES, **UNet.tiny, segment_seconds=0.2)
    again = trainer(tmp_path, EMA())
    found = again.validate(
        model, run.data, run.checkpoints / "best.ckpt", verbose=False, weights_only=True
    )
    assert found[0]["val/loss"] == pytest.approx(min(run.witness.losses), rel=1e-6)


def scalar(value: float) -> Any:
    """A model of one weight."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module


def test_average_without_warm_up_and_before_the_first_update() -> None:
    ema, model = EMA(decay=0.5, warm_up=False), scalar(1.0)
    averaged_model: Any = AveragedModel(model, use_buffers=True, **ema._kwargs)
    ema._average_model = averaged_model
    average = averaged_model.module.weight
    nn.init.constant_(model.weight, 2.0)
    ema._copy_before_first_update(model)
    assert average.item() == 2.0
    for value, expected in ((3.0, 3.0), (5.0, 4.0), (6.0, 5.0)):
        nn.init.constant_(model.weight, value)
        averaged_model.update_parameters(model)
        assert average.item() == expected
    ema._copy_before_first_update(model)
    assert average.item() == 5.0


def test_only_weights_are_copied() -> None:
    """The rest of a model leads to the trainer, which holds locks and the data."""
    shared = nn.Linear(2, 2)
    model: Any = LightningModule()
    model.parts = nn.ModuleDict({"first": shared, "second": shared, "norm": nn.BatchNorm1d(2)})
    model.register_buffer("constant", torch.ones(1), persistent=False)
    model.lock, model.no_module = threading.Lock(), None
    model.register_module("nothing", None)
    ema = EMA()
    ema.setup(Trainer(logger=False, accelerator="cpu", default_root_dir="/"), model, "fit")
    assert ema.average is not None
    average: Any = ema.average.module
    assert average.state_dict().keys() == model.state_dict().keys()
    assert [name for name, _ in average.named_buffers()] == [n for n, _ in model.named_buffers()]
    assert average.parts.first is average.parts.second
    for copied, own in zip(average.parameters(), model.parameters(), strict=True):
        assert torch.equal(copied, own)
        assert copied.data_ptr() != own.data_ptr()


def test_bad_decay_and_sharded_models_raise() -> None:
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"decay is {decay}"):
            EMA(decay=decay)
    ema = EMA()
    ema._average_model = AveragedModel(scalar(1.0))
    sharded: Any = SimpleNamespace(
        device=torch.device("cpu"), state_dict=lambda: {"weight": torch.zeros(0)}
    )
    fsdp: Any = SimpleNamespace(strategy=SimpleNamespace())
    with pytest.raises(ValueError, match="complete model on each rank"):
        ema.on_fit_start(fsdp, sharded)
