"""Schedule-free optimisers: their average is validated and saved, and runs resume exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.fnn import FNN
from lightning_modules.callbacks.changed_settings import check_schedule, check_state, schedule_at
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.schedule_free import ScheduleFree
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration.messages import SettingError
from tests.helpers.separators import Gains

SOURCES = ["vocals", "drums", "bass", "other"]


def fit(
    root: Path, folder: Path, epochs: int, optimizer: Callable[..., Any], resumed: Any = None
) -> Any:
    torch.manual_seed(0)
    model = FNN(SOURCES, **FNN.tiny, segment_seconds=0.2, optimizer=optimizer)
    data = MUSDBDataModule(
        root=str(root), segment_seconds=0.2, batch_size=4, examples_per_epoch=16,
        validation_crops_per_track=2, num_workers=0,
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ScheduleFree(), Checkpoints("val/loss", "min")],
    )
    trainer.fit(model, data, ckpt_path=resumed, weights_only=True)
    with torch.no_grad():
        (batch,) = list(data.val_dataloader()[0])
        best = load_separator(folder / "checkpoints/last.ckpt")
        losses = [float(each.eval().loss(batch)["loss"]) for each in (model, best)]
    return model, float(trainer.callback_metrics["val/loss"]), losses


@pytest.mark.slow
def test_the_average_is_validated_saved_and_resumed(musdb_root: Path, tmp_path: Path) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    optimizer = partial(schedulefree.AdamWScheduleFree, lr=0.01)
    _, loss, losses = fit(musdb_root, tmp_path / "a", 1, optimizer)
    assert losses == pytest.approx([loss, loss], rel=1e-6)
    last = tmp_path / "a/checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)
    ours, theirs = saved["state_dict"], saved["current_model_state"]
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)
    again, *_ = fit(musdb_root, tmp_path / "b", 2, optimizer, last)
    whole, *_ = fit(musdb_root, tmp_path / "c", 2, optimizer)
    for found, expected in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_other_optimisers_are_refused(musdb_root: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="optimizer is SGD"):
        fit(musdb_root, tmp_path, 1, partial(SGD, lr=0.1))


class Free(SGD):
    """The interface of a schedule-free optimiser."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


def test_schedules_and_changed_settings_of_the_model_are_refused() -> None:
    model = Gains(["a", "b"], optimizer=Free, lr_scheduler=partial(StepLR, step_size=1))
    with pytest.raises(SettingError, match=r"Free is schedule-free.*lr_scheduler=null"):
        check_schedule(model, 1)
    model = Gains(["a", "b"], optimizer=Free)
    contents = {"optimizer_states": [model.create_optimizer().state_dict()], "lr_schedulers": []}
    with pytest.raises(SettingError, match="cannot give Free new settings"):
        check_state(model, contents, schedule_at(model, contents, new_rate=False))
