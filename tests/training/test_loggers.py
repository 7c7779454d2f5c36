"""W&B settings of a run that W&B itself would refuse late."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jsonargparse import Namespace

from datamodules.errors import DataError
from lightning_modules.configuration.files import CONFIGS
from lightning_modules.configuration.messages import SettingError
from lightning_modules.training.loggers import keep_loggers, prepare_loggers


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    monkeypatch.setattr(os, "environ", {**clean, "HOME": str(tmp_path)})


def prepare(run_dir: Path) -> str:
    arguments = Namespace({"name": None, "offline": True, "save_dir": "."})  # type: ignore[no-untyped-call]
    logger = Namespace({"class_path": "a.WandbLogger", "init_args": arguments})  # type: ignore[no-untyped-call]
    prepare_loggers({"logger": logger}, run_dir)
    return os.environ["WANDB_RUN_ID"]


@pytest.mark.parametrize("damaged", [b"", b"\n", b"a b", b"\0\0\0", b"\xff\xfe", b"a" * 200])
def test_a_damaged_run_id_is_replaced(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "wandb_run_id").write_bytes(damaged)
    chosen = prepare(tmp_path)
    assert chosen.startswith(tmp_path.name[:40])
    del os.environ["WANDB_RUN_ID"]
    assert prepare(tmp_path) == chosen
    assert os.listdir(tmp_path) == ["wandb_run_id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "foo"),
        ("WANDB_SILENT", "foo"),
        ("WANDB_INIT_TIMEOUT", "soon"),
        ("WANDB_RUN_ID", "../a"),
    ],
)
def test_variables_that_are_refused(name: str, value: str, tmp_path: Path) -> None:
    os.environ[name] = value
    with pytest.raises(SettingError, match="WANDB_"):
        prepare(tmp_path)


def test_empty_variables_are_unset(tmp_path: Path) -> None:
    os.environ.update(WANDB_MODE="", WANDB_DIR=" ", WANDB_RUN_ID="")
    assert prepare(tmp_path)
    assert not {"WANDB_MODE", "WANDB_DIR"} & set(os.environ)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.environ["WANDB_DIR"] = str(tmp_path / "file")
    with pytest.raises(DataError, match=r"^WANDB_DIR .*is not a folder"):
        prepare(tmp_path)


RUN = """
trainer:
  logger:
  - {class_path: WandbLogger, init_args: {project: mine, name: null, offline: true, save_dir: .}}
  - {class_path: CSVLogger, init_args: {save_dir: old}}
"""


@pytest.mark.parametrize(
    ("words", "config", "kept"),
    [
        (["test"], "model: {}", True),
        (["test", "--trainer.max_epochs=3"], "trainer: {devices: 1}", True),
        (["test", "--trainer.logger=CSVLogger"], "{}", False),
        (["test", "--trainer.logger+=CSVLogger"], "{}", False),
        (["test", "--trainer", "{logger: false}"], "{}", False),
        (["test"], "trainer: {logger: false}", False),
    ],
)
def test_a_test_has_the_loggers_of_its_run(
    words: list[str], config: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["stemlab", *words])
    (tmp_path / "config.yaml").write_text(RUN)
    (tmp_path / "own.yaml").write_text(config)
    base = CONFIGS / "base.yaml"
    trainer = Namespace(logger="unchanged")  # type: ignore[no-untyped-call]
    keep_loggers(trainer, tmp_path, [base, tmp_path / "own.yaml"])
    if not kept:
        assert trainer.logger == "unchanged"
        return
    prepare_loggers(trainer, tmp_path)
    wandb, csv = trainer.logger
    assert wandb.init_args.project == "mine"
    assert csv.init_args.save_dir == str(tmp_path)


def test_a_run_without_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stemlab", "test"])
    trainer = Namespace(logger="unchanged")  # type: ignore[no-untyped-call]
    keep_loggers(trainer, tmp_path, [])
    assert trainer.logger == "unchanged"
    (tmp_path / "config.yaml").write_text("trainer: {logger: false}")
    keep_loggers(trainer, tmp_path, [])
    assert trainer.logger is False
