"""Lightning's private names still exist and mean what we use them for."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher, subprocess_script
from torch.optim.swa_utils import AveragedModel

from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.unet import UNet
from lightning_modules.callbacks import lightning_internals as internals


class Checks(Callback):
    """Checks the loops of a training of two epochs with four batches, two to an optimiser step."""

    def __init__(self) -> None:
        self.steps: list[bool] = []
        self.last: list[bool] = []
        self.validations: list[bool] = []
        self.logged: list[int] = []
        self.counters: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(trainer.fit_loop.epoch_loop.val_loop._has_run, bool)
        assert trainer.fit_loop._restarting is False
        assert callable(trainer._signal_connector.register_signal_handlers)
        assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
        assert internals.batches_done(trainer) == 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(internals.between_steps(trainer))
        self.last.append(internals.is_last_batch_of_epoch(trainer))
        self.validations.append(internals.validation_follows(trainer))
        assert internals.batches_done(trainer) == len(self.steps)
        if not self.counters:
            dumped = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self.counters = dumped["loops"]["fit_loop"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged.append(internals.logged_step(trainer))


def test_private_names_of_lightning(musdb_root: Path, tmp_path: Path) -> None:
    checks = Checks()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[checks],
    )
    sources = ["vocals", "drums", "bass", "other"]
    data = MUSDBDataModule(
        str(musdb_root),
        segment_seconds=0.05,
        batch_size=2,
        examples_per_epoch=4,
        validation_crops_per_track=1,
        num_workers=0,
    )
    model = UNet(sources, **{**UNet.tiny, "channels": [2]}, segment_seconds=0.05)
    trainer.fit(model, data)
    assert checks.steps == [False, True] * 4
    assert checks.last == checks.validations == [False, False, False, True] * 2
    assert checks.logged == [1, 3]

    # State dict of the loops, which ExactResume rewrites.
    for name in ("epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"):
        assert checks.counters[name]["current"].keys() >= {"ready", "started", "processed"}
        assert "is_last_batch" in checks.counters[name]
    assert checks.counters["epoch_progress"]["current"].keys() >= {"ready", "processed"}
    assert checks.counters["epoch_loop.batch_progress"]["current"]["processed"] == 1
    assert checks.counters["epoch_loop.batch_progress"]["current"]["completed"] == 0
    assert "_batches_that_stepped" in checks.counters["epoch_loop.state_dict"]

    # Methods that the base classes give public names.
    for kind, name, parameters in (
        (ModelCheckpoint, "_monitor_candidates", ["trainer"]),
        (ModelCheckpoint, "_save_topk_checkpoint", ["trainer", "monitor_candidates"]),
        (ModelCheckpoint, "_save_last_checkpoint", ["trainer", "monitor_candidates"]),
        (ModelCheckpoint, "_save_checkpoint", ["trainer", "filepath"]),
        (ModelCheckpoint, "_remove_checkpoint", ["trainer", "filepath"]),
        (ModelCheckpoint, "_should_remove_checkpoint", ["trainer", "previous", "current"]),
        (WeightAveraging, "_copy_average_to_current", ["pl_module"]),
        (LightningCLI, "_set_seed", []),
        (LightningCLI, "_parse_ckpt_path", []),
    ):
        signature = inspect.signature(getattr(kind, name))
        assert list(signature.parameters) == ["self", *parameters], name
    averaging = internals.WeightAveragingBase()
    averaging.setup(trainer, model, "fit")
    assert isinstance(averaging.average, AveragedModel)

    logger = WandbLogger(offline=True, save_dir=tmp_path, anonymous=None)
    assert "anonymous" in logger._wandb_init
    internals.drop_anonymous(logger)
    assert "anonymous" not in logger._wandb_init
    assert internals.has_checkpoint_io(SingleDeviceStrategy(checkpoint_io=TorchCheckpointIO()))
    assert not internals.has_checkpoint_io(SingleDeviceStrategy())
    with pytest.raises(AttributeError, match="no_such"):
        _ = trainer.fit_loop.no_such  # type: ignore[attr-defined]


def test_lightning_starts_the_observer_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", None)
    internals.observe_ranks(started.append)
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=1, num_nodes=1)
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: None)
    launcher.launch(lambda: None)
    assert started == [launcher.procs]
