"""Throughput: measured times, logged metrics and the printed line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from datamodules.augmentations.base import Augmentation
from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks import throughput
from lightning_modules.callbacks.throughput import PARTS, StepTimes, Throughput, format_seconds


class Clock:
    """Clock that tests advance."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "time", CLOCK)


class Slow(Augmentation):
    """Takes one second, as a part of the transfer."""

    neutral = 0.0

    def draw_parameters(self, random: Any, stems: int) -> Any:
        return random.random(stems)

    def forward(self, stems: Tensor, parameters: Tensor) -> Tensor:
        CLOCK.now += 1
        return stems


class Separator(SourceSeparator):
    """One convolution; takes one second in ``slow_part``."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, **arguments: Any) -> None:
        super().__init__(["vocals", "drums", "bass", "other"], **arguments)
        self.convolution = nn.Conv1d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.BatchNorm1d(8).eval()
        self.slow_part = ""

    def forward(self, mixture: Tensor) -> Tensor:
        stacked = self.frozen(self.norm(self.convolution(mixture)))
        return torch.unflatten(stacked, 1, (4, 2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.slow_part == "forward" and self.training:
            CLOCK.now += 1
        return {"loss": nn.functional.l1_loss(self(batch.mixture), batch.targets)}

    def on_validation_epoch_start(self) -> None:
        """Take one second outside any step."""
        CLOCK.now += 1

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take one second in no named part of a step."""
        if self.slow_part == "rest":
            CLOCK.now += 1


def fit(root: Path, folder: Path, model: Separator, *augmentations: Augmentation) -> Trainer:
    data = MUSDBDataModule(
        root=str(root),
        segment_seconds=0.1,
        batch_size=4,
        examples_per_epoch=32,
        num_workers=0,
        augmentations=list(augmentations),
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=1,
        val_check_interval=4,
        log_every_n_steps=2,
        default_root_dir=folder,
        callbacks=[Throughput()],
    )
    trainer.fit(model, data)
    return trainer


@pytest.mark.parametrize("part", ["transfer", "forward", "rest"])
def test_time_is_assigned_to_the_right_part(
    musdb_root: Path, tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Separator()
    model.slow_part = part
    trainer = fit(musdb_root, tmp_path, model, *([Slow()] if part == "transfer" else []))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    shares = {
        name.rpartition("/")[2]: value
        for name, value in metrics.items()
        if "share" in name or name == "train/data_wait"
    }
    assert shares == {name: float(name == part) for name in (*PARTS, "data_wait") if name != "data"}
    # A batch of 4 examples of 0.1 s in each second of this clock.
    assert metrics["train/examples_per_second"] == 4
    assert metrics["train/audio_seconds_per_second"] == pytest.approx(0.4)
    assert metrics["train/hours_left"] >= 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "examples/s" in line]
    assert line.startswith("Epoch 0: ")
    assert "validation 2.0 s" in line


def test_waiting_for_data_prints_a_hint(
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from datamodules.stream.datasets import TrainingCrops

    def fill(self: TrainingCrops, stems: Tensor, position: Any) -> None:
        CLOCK.now += 1
        stems.zero_()

    monkeypatch.setattr(TrainingCrops, "fill", fill)
    trainer = fit(musdb_root, tmp_path, Separator())
    assert trainer.callback_metrics["train/data_wait"] == 1
    assert "--data.init_args.num_workers (now 0)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (125, "02:05"),
        (2 * 3600 + 61, "2:01:01"),
        (86_399.6, "1 day 00:00"),
        (1678 * 3600 + 4 * 60 + 48, "69 days 22:04"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_flops_of_a_convolution() -> None:
    model = Separator(segment_seconds=0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # 3 taps, 2 channels in, 8 out, a multiplication and an addition each.
    assert forward_flops(model) == 3 * 2 * 8 * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.training
    assert not model.frozen.training


def test_another_profiler_is_kept(tmp_path: Path) -> None:
    trainer = Trainer(profiler="simple", logger=False, accelerator="cpu")
    theirs = trainer.profiler  # type: ignore[attr-defined]
    Throughput().setup(trainer, LightningModule(), "fit")
    assert trainer.profiler is theirs  # type: ignore[attr-defined]


def test_nested_actions_are_not_counted_twice() -> None:
    times = StepTimes()
    times.active = True
    with (
        times.profile("[LightningModule]X.optimizer_step"),
        times.profile("[Strategy]Y.training_step"),
    ):
        CLOCK.now += 1
    seconds = times.seconds()
    assert (seconds["forward"], seconds["optimizer"]) == (1, 0)
    times.reset()
    times.active = False
    with times.profile("[Strategy]Y.training_step"):
        pass
    assert not any(times.seconds().values())
