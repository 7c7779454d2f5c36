"""A training whose data cannot be read any more saves its state, and resumes as if nothing was."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from datamodules.stream.datasets import TrainingCrops
from lightning_modules.checkpoints.loading import read_checkpoint
from tests.helpers.command_line import CSV, TINY, UNET, run

EMA = "--trainer.callbacks+=lightning_modules.callbacks.ema.EMA"
BATCHES = 4  # in an epoch


def settings(root: Path, *more: str) -> list[str]:
    size = f"--data.init_args.examples_per_epoch={8 * BATCHES}"
    epochs = ["--trainer.max_epochs=2", "--trainer.limit_val_batches=0"]
    return ["fit", *UNET, *TINY, *CSV, EMA, f"--data.init_args.root={root}", size, *epochs, *more]


def weights(folder: str) -> dict[str, Any]:
    contents = read_checkpoint(Path(folder, "checkpoints/last.ckpt"))
    assert contents["global_step"] == 2 * BATCHES
    trained: dict[str, Any] = {f"raw.{k}": v for k, v in contents["current_model_state"].items()}
    return {**contents["state_dict"], **trained}


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, BATCHES + 2])
def test_state_before_a_missing_file_is_saved_and_resumed(
    batch: int,
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*settings(musdb_root, "--run_dir=whole")) == 0
    fill = TrainingCrops.fill

    def fail(self: TrainingCrops, target: Any, position: tuple[int, int]) -> None:
        epoch, index = position
        if epoch * BATCHES + index // 8 == batch:
            raise FileNotFoundError(2, "No such file or directory", "vocals.wav")
        fill(self, target, position)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingCrops, "fill", fail)
        assert run(*settings(musdb_root, "--run_dir=broken")) == 2
    error = capsys.readouterr().err
    assert "vocals.wav: No such file" in error
    steps = read_checkpoint(Path("broken/checkpoints/last.ckpt"))["global_step"]
    # Lightning reads a batch ahead.
    assert batch - 1 <= steps <= batch
    assert run(*settings(musdb_root, "--run_dir=broken", "--ckpt_path=last")) == 0
    whole, resumed = weights("whole"), weights("broken")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


class KillWorker(Callback):
    """Kills a loader process within the third step."""

    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2 and not Path("killed").exists():
            Path("killed").touch()
            loader: Any = trainer.train_dataloader
            os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(0.3)


@pytest.mark.slow
def test_killed_loader_process_is_told_and_the_step_is_finished(
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--data.init_args.num_workers=1"]
    kill = f"--trainer.callbacks+={__name__}.KillWorker"
    assert run(*settings(musdb_root, "--run_dir=run", kill, *more)) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert "a process that loads data" in last
    assert "memory runs out" in last
    assert "could not be" not in error
    assert "The state after batch 3 is saved in" in error
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 3
    assert run(*settings(musdb_root, "--run_dir=run", "--ckpt_path=last", *more)) == 0
    weights("run")
