"""Logged metrics, read from the files of each logger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import wandb
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from lightning_modules.comparison.history import history_row, read_history, wandb_records

EXPECTED = {"train/loss": {4: 0.5}, "val/sdr": {9: 1.5, 19: 2.5}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger, WandbLogger])
def test_history_of_each_logger(tmp_path: Path, kind: type) -> None:
    logger = kind(save_dir=str(tmp_path))
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=4)
    logger.log_metrics({"val/sdr": 1.5, "epoch": 0}, step=9)
    logger.log_metrics({"val/sdr": 2.5, "val/isr": float("nan"), "epoch": 1}, step=19)
    logger.finalize("success")
    logger.save()
    if kind is WandbLogger:
        wandb.finish()
        wandb.teardown()  # its process may still be writing
    history = read_history(tmp_path)
    assert {name: history[name] for name in EXPECTED} == EXPECTED
    assert "val/isr" not in history


def test_later_values_of_resumed_run_count(tmp_path: Path) -> None:
    for version, (steps, value) in enumerate([((9, 19), 1.0), ((19, 29), 2.0)]):
        log = tmp_path / f"lightning_logs/version_{version}/metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("step,val/sdr\n" + "".join(f"{step},{value}\n" for step in steps))
        os.utime(log, (version, version))
    assert read_history(tmp_path) == {"val/sdr": {9: 1.0, 19: 2.0, 29: 2.0}}
    assert read_history(tmp_path / "nothing") == {}


@pytest.mark.slow
def test_wandb_file_of_many_blocks_and_truncated(tmp_path: Path) -> None:
    """Records longer than a block of 32 KiB are complete; reading ends at a truncated one."""
    run = wandb.init(project="test", dir=tmp_path, mode="offline")
    for step in range(40):
        run.log({"long": "x" * (3000 * step), "loss": step / 2, "trainer/global_step": step})
    run.finish()
    wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert path.stat().st_size > 10 * 32768
    rows = [row for record in wandb_records(path) if (row := history_row(record))]
    assert [row["loss"] for row in rows] == [step / 2 for step in range(40)]
    assert [len(row["long"]) for row in rows] == [3000 * step for step in range(40)]
    assert read_history(tmp_path)["loss"][39] == 19.5

    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    kept = list(read_history(tmp_path)["loss"].values())
    assert 5 < len(kept) < 40
    assert kept == [step / 2 for step in range(len(kept))]
    path.write_bytes(b"")
    assert read_history(tmp_path) == {}
