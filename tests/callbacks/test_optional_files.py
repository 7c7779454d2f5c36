"""Logs, plots and score files that cannot be written: one warning, and training continues."""

from __future__ import annotations

import csv
import errno
import os
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from lightning_modules.callbacks.optional_files import OptionalFiles, make_optional
from lightning_modules.evaluation import score_files
from tests.helpers.command_line import CSV, TINY, UNET, run
from tests.helpers.small_disk import small_disk

LAST = 4000  # more rows than fit into the page that the log has


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system", "a.png"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("encoder error -2 when writing image file"),
    ],
)
def test_first_error_is_told(error: Exception) -> None:
    guard = OptionalFiles("the plots")
    with pytest.warns(UserWarning, match=r"The run continues without the plots"), guard:
        raise error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with guard:
            raise error
    with pytest.raises(KeyboardInterrupt), guard:
        raise KeyboardInterrupt


def rows(logger: CSVLogger) -> list[dict[str, str]]:
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(logger: Any, metrics: dict[str, float]) -> None:
    for step in range(2, LAST + 1):
        logger.log_metrics(metrics, step=step)  # saves at every hundredth step
    logger.save()


@pytest.mark.parametrize("new", [{"a": 2.0}, {"b": 2.0}], ids=["row", "column"])
def test_csv_log_on_a_full_disk_keeps_its_rows(new: dict[str, float], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        logger = CSVLogger(disk, name="", version="")
        make_optional(logger)
        logger.log_metrics({"a": 1.0}, step=1)
        logger.save()
        fill(disk)
        with pytest.warns(UserWarning, match=rf"metrics.csv: .*No space.*{disk}.*CSVLogger"):
            log(logger, new)
        kept = [row["step"] for row in rows(logger)]
        assert kept == [str(step) for step in range(1, len(kept) + 1)]
        assert 1 <= len(kept) < LAST
        (disk / "filler").unlink()
        logger.save()
        found = rows(logger)
        assert [row["step"] for row in found] == [str(step) for step in range(1, LAST + 1)]
        assert found[0]["a"] == "1.0"


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_tensorboard_on_a_full_disk_prints_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        logger = TensorBoardLogger(disk)
        make_optional(logger)
        logger.log_metrics({"a": 1.0}, step=1)
        logger.save()
        fill(disk)
        with pytest.warns(UserWarning, match=r"No space.*without entries of TensorBoardLogger"):
            log(logger, {"a": 1.0})
        with suppress(OSError, RuntimeError):
            logger.experiment.close()  # before the disk is unmounted
    assert "Traceback" not in capfd.readouterr().err


def test_wandb_offline_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B writes in a process of its own, which tells no errors."""
    run = SimpleNamespace(offline=True, log=lambda *_, **__: None)
    monkeypatch.setattr(WandbLogger, "experiment", run)
    with small_disk(tmp_path / "disk", kilobytes=128) as disk:
        logger = WandbLogger(save_dir=disk)
        make_optional(logger)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logger.log_metrics({"a": 1.0}, step=1)
        fill(disk)
        with pytest.warns(UserWarning, match=r"No space.*without entries of WandbLogger"):
            logger.log_metrics({"a": 1.0}, step=2)
        run.offline = False  # they are sent to the server
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logger.log_metrics({"a": 1.0}, step=3)


def test_tensorboard_on_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="ro") as disk:
        logger = TensorBoardLogger(disk)
        make_optional(logger)
        with pytest.warns(UserWarning, match=r"Read-only.*without entries of TensorBoardLogger"):
            logger.log_metrics({"a": 1.0}, step=1)
        logger.save()
        logger.finalize("success")


@pytest.mark.slow
@pytest.mark.complete_run
def test_training_outlives_score_files_and_plots_but_not_checkpoints(
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["fit", *UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}", "--run_dir"]

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(Figure, "savefig", refuse)
        patch.setattr(score_files, "json", SimpleNamespace(dumps=refuse))
        assert run(*words, str(tmp_path / "run")) == 0
    lines = [str(each.message) for each in told if "The run continues" in str(each.message)]
    assert len(lines) == 2
    assert all(".png" in line or ".json" in line for line in lines)
    assert (tmp_path / "run/checkpoints/best.ckpt").exists()
    assert not list((tmp_path / "run").rglob("*.tmp"))
    capsys.readouterr()
    with small_disk(tmp_path / "disk", kilobytes=100) as disk:
        assert run(*words, str(disk / "run")) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert ".ckpt: could not be written (No space left on device;" in line


@pytest.mark.slow
def test_run_directory_on_a_full_disk(
    musdb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", kilobytes=4) as disk:
        with (disk / "filler").open("wb", buffering=0) as file:
            file.write(bytes(4096))
        words = ["fit", *UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}"]
        assert run(*words, "--run_dir", str(disk / "run")) == 2
    error = capsys.readouterr().err
    assert f"error: {disk}/run/" in error
    assert "No space left on device; 0.0 MB are free on the disk" in error
