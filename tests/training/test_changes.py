"""What a resumed run changes against the run of its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.configuration.messages import SettingError
from lightning_modules.training import changes
from lightning_modules.training.changes import Change, check_changes, find_changes, report
from tests.helpers.command_line import run


def config(**model: Any) -> dict[str, Any]:
    return {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 1,
            "logger": {"class_path": "a.CSVLogger", "init_args": {"save_dir": "x"}},
            "callbacks": [
                {"class_path": "b.EMA", "init_args": {"decay": 0.9}},
                {"class_path": "b.Progress"},
            ],
        },
        "model": {
            "class_path": "c.UNet",
            "init_args": {
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
                "alphas": {"vocals": 0.5},
                **model,
            },
        },
        "data": {"class_path": "d.Data", "init_args": {"batch_size": 8, "root": {"a": 1.0}}},
    }


def test_differences_by_key() -> None:
    new = config(alphas={"vocals": 0.5, "other": 0.5}, added_in_a_later_version=1)
    new["trainer"]["callbacks"][0]["init_args"]["decay"] = 0.99
    new["trainer"]["callbacks"].pop()
    new["trainer"]["callbacks"].append({"class_path": "b.EarlyStopping"})
    new["trainer"]["logger"]["init_args"]["save_dir"] = "y"
    new["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 1e-5
    new["data"]["init_args"]["root"] = {"a": 1.0, "b": 2.0}
    assert find_changes(config(), config()) == []
    assert [str(change) for change in find_changes(config(), new)] == [
        "trainer.callbacks.EMA.init_args.decay: 0.9 -> 0.99",
        "trainer.callbacks.Progress: used -> not used",
        "trainer.callbacks.EarlyStopping: not used -> used",
        "model.init_args.optimizer.init_args.lr: 0.001 -> 1e-05",
        "model.init_args.alphas: {'vocals': 0.5} -> {'vocals': 0.5, 'other': 0.5}",
        "data.init_args.root: {'a': 1.0} -> {'a': 1.0, 'b': 2.0}",
    ]


def test_order_and_number_of_callbacks_of_a_class() -> None:
    new, old = config(), config()
    new["trainer"]["callbacks"].reverse()
    assert [str(change) for change in find_changes(old, new)] == [
        "trainer.callbacks (order): ['EMA', 'Progress'] -> ['Progress', 'EMA']"
    ]
    old["trainer"]["callbacks"] = new["trainer"]["callbacks"] * 2
    assert [change.key for change in find_changes(old, new)] == [
        "trainer.callbacks.Progress 2",
        "trainer.callbacks.EMA 2",
    ]


@pytest.mark.parametrize(
    ("key", "before", "after", "position", "reason"),
    [
        ("model.init_args.optimizer", "A", "B", "", "of another optimiser"),
        ("model.init_args.lr_scheduler", None, "B", "", "of another scheduler"),
        ("model.init_args.lr_scheduler", "A", None, "", "of another scheduler"),
        ("model.init_args.pretrained", None, "x.ckpt", "", "would replace"),
        ("trainer.callbacks.EMA", "used", "not used", "", "its weights are the average"),
        ("model.init_args.parameter_groups", None, {"a": {"lr_factor": 1}}, "", "other groups"),
        (
            "model.init_args.parameter_groups",
            {"a": {"lr_factor": 1}},
            {"a": {"lr_factor": 0}},
            "",
            "other groups",
        ),
        (
            "model.init_args.parameter_groups",
            {"a": {"lr_factor": 1}},
            {"a": {"lr_factor": 2, "weight_decay": 0}},
            "",
            None,
        ),
        ("model.init_args.lora", None, {"rank": 8}, "", "other adapters"),
        ("trainer.callbacks.BestEMA", "used", "not used", "", "its weights are the average"),
        ("trainer.callbacks.BestEMA.init_args.per_step", [0.9, 0.99], [0.9], "", "another number"),
        ("trainer.callbacks.BestEMA.init_args.per_epoch", [0.9], [0.99], "", None),
        ("data.init_args.batch_size", 4, 8, "at batch 3 of 9", "is at batch 3 of 9"),
        ("data.init_args.batch_size", 4, 8, "", None),
        ("trainer.accumulate_grad_batches", 1, 2, "at batch 3 of 9", "at the end of an epoch"),
        ("trainer.callbacks.EMA", "not used", "used", "", None),
        ("model.init_args.pretrained", "x.ckpt", None, "", None),
        ("model.init_args.optimizer.init_args.lr", 1, 2, "at batch 3 of 9", None),
    ],
)
def test_changes_that_are_refused(
    key: str, before: Any, after: Any, position: str, reason: str | None
) -> None:
    changes = [Change("trainer.max_epochs", 1, 2), Change(key, before, after)]
    if reason is None:
        check_changes(changes, Path("last.ckpt"), position)
        return
    with pytest.raises(SettingError) as refused:
        check_changes(changes, Path("last.ckpt"), position)
    for part in (key, reason, "config.yaml", "--model.init_args.pretrained=last.ckpt"):
        assert part in str(refused.value)
    assert "max_epochs" not in str(refused.value)


def test_report_says_when_the_data_changes() -> None:
    assert "its data changed" in report([Change("data.init_args.batch_size", 1, 2)])
    assert report([Change("trainer.max_epochs", 1, 2)]).splitlines() == [
        "Changed against the checkpoint's run:",
        "  trainer.max_epochs: 1 -> 2 (taken)",
    ]


# ------------------------------------------------------------------ complete runs

QUICK: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {
                "class_path": "lightning_modules.callbacks.checkpoints.Checkpoints",
                "init_args": {"monitor": "val/loss", "mode": "min", "save_every_n_steps": 1},
            },
            {"class_path": "lightning_modules.callbacks.resume.ExactResume"},
            {
                "class_path": "pytorch_lightning.callbacks.EarlyStopping",
                "init_args": {"monitor": "val/loss", "patience": 5},
            },
        ],
    },
    "model": {
        "init_args": {
            "channels": [4, 8],
            "n_fft": 512,
            "hop_length": 256,
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.StepLR",
                "init_args": {"step_size": 1, "gamma": 0.5},
            },
        }
    },
    "data": {
        "init_args": {
            "segment_seconds": 0.2,
            "examples_per_epoch": 16,
            "batch_size": 8,
            "validation_crops_per_track": 1,
            "num_workers": 0,
        }
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, musdb_root: Path) -> Path:
    """A folder with a trained run."""
    folder = tmp_path_factory.mktemp("changes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = {"init_args": {**QUICK["data"]["init_args"], "root": str(musdb_root)}}
        Path("quick.yaml").write_text(yaml.safe_dump({**QUICK, "data": data}))
        assert run("fit", "--config", "unet.yaml", "--config", "quick.yaml", "--run_dir=run") == 0
    return folder


@pytest.fixture
def resume(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Resume a copy of the run with further arguments; return status and run directory."""
    run_dir = tmp_path / "run"
    shutil.copytree(folder / "run", run_dir)
    monkeypatch.chdir(folder)

    def resumed(*arguments: str, checkpoint: str = "last") -> tuple[int, Path]:
        configs = ["--config", "unet.yaml", "--config", "quick.yaml"]
        given = ["--run_dir", str(run_dir), "--ckpt_path", checkpoint, *arguments]
        return run("fit", *configs, *given), run_dir

    return resumed


def saved(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    contents = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    return contents, yaml.safe_load((run_dir / "config.yaml").read_text())


OPTIMIZER = "--model.init_args.optimizer.init_args"
MORE = "--trainer.max_epochs=3"


@pytest.mark.slow
def test_what_is_asked_for_is_what_runs(resume: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, run_dir = resume(
        MORE,
        f"{OPTIMIZER}.lr=1e-5",
        f"{OPTIMIZER}.weight_decay=0.1",
        "--model.init_args.lr_scheduler.init_args.gamma=0.1",
        "--trainer.callbacks.patience=1",  # which ends the run: its loss does not improve
        "--seed_everything=3",
        "--data.init_args.batch_size=4",
    )
    assert status == 0
    out = capsys.readouterr().out
    for line in (
        "model.init_args.optimizer.init_args.lr: 0.001 -> 1e-05 (taken)",
        "trainer.callbacks.EarlyStopping.init_args.patience: 5 -> 1 (taken)",
        "learning rate of the next step: 1e-07",
        "its data changed",
    ):
        assert line in out
    contents, config = saved(run_dir)
    group = contents["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == pytest.approx(1e-8)
    assert (group["initial_lr"], group["weight_decay"]) == (1e-5, 0.1)
    assert contents["lr_schedulers"][0]["gamma"] == 0.1
    (stopping,) = [state for key, state in contents["callbacks"].items() if "EarlySt" in key]
    assert stopping["patience"] == 1
    assert contents["exact_resume"]["seed"] == 3
    # Two epochs of two batches, one of four.
    assert contents["MUSDBDataModule"] == {"batches": 8, "batches_per_epoch": 4, "since": [2, 4]}
    assert contents["epoch"] == 2
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-5
    former = yaml.safe_load((run_dir / "config_until_step_000004.yaml").read_text())
    assert former["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-3
    # The next start finds nothing changed but the number of epochs.
    again = ["--config", str(run_dir / "config.yaml"), "--ckpt_path", "last"]
    assert run("fit", *again, "--trainer.max_epochs=4") == 0
    out = capsys.readouterr().out
    assert "max_epochs: 3 -> 4 (taken)" in out
    assert out.count("(taken)") == 1
    assert run("fit", *again, "--trainer.max_epochs=4", "--trainer.callbacks.patience=9") == 0
    assert saved(run_dir)[0]["MUSDBDataModule"]["batches"] == 12


def test_the_config_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints/last.ckpt"

    def seed(step: int) -> Any:
        return (changes.stored_config(checkpoint, step) or {}).get("seed_everything")

    assert seed(0) is None
    (tmp_path / "config.yaml").write_text("seed_everything: 1")
    assert seed(5) == 1, "of an older version"
    changes.save_config(tmp_path, "seed_everything: 1", 0)
    changes.save_config(tmp_path, "seed_everything: 2", 5)
    assert [seed(step) for step in (0, 5, 6)] == [1, 1, 2]
    # Killed before a checkpoint was saved, and resumed with a third value.
    changes.save_config(tmp_path, "seed_everything: 3", 5)
    assert [seed(step) for step in (5, 6)] == [1, 3]
    (tmp_path / "config.yaml").write_text("seed_everything: 4")
    assert seed(6) == 3, "edited by the user"
    changes.save_config(tmp_path, "seed_everything: 4", 9)
    assert [seed(step) for step in (5, 9, 10)] == [1, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.init_args.optimizer=torch.optim.SGD", f"{OPTIMIZER}.lr=0.1"], "another optimis"),
        (["--model.init_args.lr_scheduler=null"], "of another scheduler"),
        ([f"{OPTIMIZER}.amsgrad=true"], "max_exp_avg_sq"),
        (["--model.init_args.pretrained=run/checkpoints/best.ckpt"], "would replace these"),
        (["--model.init_args.channels=[4,4]"], "channels ([4, 8] in the checkpoint"),
    ],
)
def test_a_refused_start_changes_nothing(
    resume: Any, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run_dir = resume(MORE, *arguments)
    assert status == 2
    assert words in capsys.readouterr().err
    assert not list(run_dir.glob("config_*"))
    assert saved(run_dir)[1]["trainer"]["max_epochs"] == 2


@pytest.mark.slow
def test_within_an_epoch_its_number_of_batches_is_fixed(
    resume: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run_dir = resume("--trainer.max_steps=5", MORE)
    assert status == 0
    for arguments, words in (
        (["--data.init_args.batch_size=4"], "is at batch 1 of 2 of an epoch"),
        (["--trainer.limit_train_batches=1"], "is at batch 1 of 2 of an epoch"),
    ):
        configs = ["--config", str(run_dir / "config.yaml"), "--ckpt_path=last", MORE]
        assert run("fit", *configs, "--trainer.max_steps=-1", *arguments) == 2
        assert words in capsys.readouterr().err
    assert saved(run_dir)[1]["trainer"]["max_steps"] == 5


@pytest.mark.slow
def test_a_checkpoint_without_a_config(
    resume: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone/a.ckpt"
    alone.parent.mkdir()
    shutil.copy(folder / "run/checkpoints/last.ckpt", alone)
    configs = ["--config", "unet.yaml", "--config", "quick.yaml", MORE, f"{OPTIMIZER}.lr=1e-4"]
    status, run_dir = resume(MORE, checkpoint=str(alone))
    assert status == 2
    assert f"{run_dir} holds another run" in capsys.readouterr().err
    new = tmp_path / "new"
    assert run("fit", *configs, "--ckpt_path", str(alone), "--run_dir", str(new)) == 0
    assert "no readable config.yaml" in capsys.readouterr().out
    assert saved(new)[0]["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-4
