"""Scores computed while the next epoch trains equal those of a run that waits for them."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules import cli
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks import bss_eval
from lightning_modules.callbacks.background_scoring import (
    MonitorError,
    Position,
    ScoringError,
    ScoringPass,
    is_validation_score,
    temporary_state,
)
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.callbacks.checkpoints import Checkpoints, Interrupted
from lightning_modules.callbacks.resume import ExactResume
from lightning_modules.checkpoints.files import AtomicCheckpointIO
from lightning_modules.configuration.files import CONFIGS
from lightning_modules.runtime import signals
from lightning_modules.runtime.process_pool import ScoringPool
from tests.helpers.command_line import CSV, TINY
from tests.helpers.pool_faults import GATE, end_process, run_out_of_memory, score_behind_gate
from tests.helpers.tracks import STEMS, write_track

_BATCHES = 2  # in an epoch
_TIMES = ("val/scoring_seconds", "val/scoring_share")


class Fading(SourceSeparator):
    """Estimates a share of the mixture that falls with each epoch: 0.9, 0.3 (the best), -0.3."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, monitor: str | None = None) -> None:
        super().__init__(list(STEMS), segment_seconds=0.05, optimizer=partial(SGD, lr=0.3))
        self.share = torch.nn.Parameter(torch.tensor(1.5))
        self.monitor = monitor

    def forward(self, mixture: Tensor) -> Tensor:
        return mixture[:, None].expand(-1, len(STEMS), -1, -1) * self.share

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.share * 1.0}

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.monitor is None:
            return optimizer
        scheduler = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


class Notes(Logger):
    """Keeps logged metrics by step."""

    name, version = "notes", 0

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Ignore them."""

    def scores(self) -> dict[int | None, dict[str, float]]:
        """Scores of each validation, without durations."""
        return {
            step: {name: value for name, value in metrics.items() if name not in _TIMES}
            for step, metrics in self.logged
            if "val/sdr" in metrics
        }


class At(Callback):
    """Calls a function after the batch of an optimiser step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.action()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    for number in range(3):
        write_track(folder / "train" / str(number), seconds=1.5, seed=number)
    return folder


def fit(
    root: Path,
    folder: Path,
    *callbacks: Callback,
    blocking: bool = False,
    top: int = 1,
    epochs: int = 3,
    steps: int = -1,
    model: Fading | None = None,
    ckpt_path: Path | None = None,
    waiting_gb: float = 8.0,
    monitor: str = "val/sdr",
) -> tuple[Notes, BSSEval, Checkpoints]:
    notes, scorer = Notes(), BSSEval(1, blocking, waiting_gb)
    checkpoints = Checkpoints(monitor, save_top_k=top)
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        logger=notes,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[*callbacks, scorer, checkpoints, ExactResume()],
        plugins=[AtomicCheckpointIO()],
    )
    data = MUSDBDataModule(
        str(root),
        segment_seconds=0.05,
        batch_size=2,
        examples_per_epoch=2 * _BATCHES,
        num_workers=0,
        validation_tracks=["0", "2"],
        validation_crops_per_track=1,
    )
    trainer.fit(model or Fading(), data, ckpt_path=ckpt_path, weights_only=True)
    return notes, scorer, checkpoints


def files(folder: Path) -> dict[str, bytes]:
    """Score files of a run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("scores/**/*.json")
    }


def shares(folder: Path) -> dict[str, float]:
    """The weight in each checkpoint of a run."""
    return {
        path.name: float(torch.load(path, weights_only=True)["state_dict"]["share"])
        for path in (folder / "checkpoints").iterdir()
    }


@pytest.mark.slow
def test_late_scores_equal_those_of_a_blocking_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, _, chosen = fit(root, tmp_path / "waits", blocking=True)
    tables = capsys.readouterr().out

    monkeypatch.setenv(GATE, str(tmp_path / "gate"))
    monkeypatch.setattr(bss_eval, "score_track", score_behind_gate)
    # Tracks of the first validation are scored during the second epoch only.
    opens = At(_BATCHES + 1, (tmp_path / "gate").touch)
    notes, _, late = fit(root, tmp_path / "late", opens)

    assert list(notes.scores()) == [_BATCHES * epoch - 1 for epoch in (1, 2, 3)]
    assert [metrics["epoch"] for metrics in notes.scores().values()] == [0, 1, 2]
    for step, metrics in expected.scores().items():
        losses = ("val/loss",)  # logged separately, with the validation
        waited = {name: value for name, value in metrics.items() if name not in losses}
        assert notes.scores()[step] == pytest.approx(waited, rel=1e-6, nan_ok=True)
    for _, metrics in notes.logged:
        if "val/sdr" in metrics:
            assert 0 <= metrics["val/scoring_share"] <= 1
            assert metrics["val/scoring_seconds"] >= 0
    assert files(tmp_path / "late") == files(tmp_path / "waits")
    assert len(files(tmp_path / "late")) == 2 * (3 + 1)
    assert capsys.readouterr().out == tables
    # The second is best: its scores come after the weights have changed.
    best = {"best.ckpt": 0.3, "epoch_001-step_000004.ckpt": 0.3}
    others = {"last.ckpt": -0.3, "previous.ckpt": -0.3}
    assert shares(tmp_path / "late") == pytest.approx(best | others, abs=1e-6)
    assert shares(tmp_path / "waits") == pytest.approx(best | {**others, "previous.ckpt": 0.3})
    assert late.best_model_score == chosen.best_model_score
    assert Path(late.best_model_path).name == Path(chosen.best_model_path).name


@pytest.mark.slow
def test_save_top_k_of_all_and_of_none(root: Path, tmp_path: Path) -> None:
    _, _, checkpoints = fit(root, tmp_path, top=-1)
    assert len(checkpoints.best_k_models) == 3
    assert len(list((tmp_path / "checkpoints").glob("epoch_*.ckpt"))) == 3
    _, _, checkpoints = fit(root, tmp_path / "none", top=0)
    assert not list((tmp_path / "none" / "checkpoints").glob("epoch_*.ckpt"))


@pytest.mark.slow
def test_a_stop_does_not_wait_and_the_resumed_run_scores_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _, _ = fit(root, tmp_path / "whole")
    monkeypatch.setenv(GATE, str(tmp_path / "gate"))
    monkeypatch.setattr(bss_eval, "score_track", score_behind_gate)
    processes: list[int] = []
    pools: list[ScoringPool] = []

    class Watched(ScoringPool):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            pools.append(self)

    def stop() -> None:
        processes.extend(pools[0]._processes)
        signal.raise_signal(signals.TERMINATE)

    with monkeypatch.context() as context:
        context.setattr(bss_eval, "ScoringPool", Watched)
        with pytest.raises(Interrupted) as interrupted:
            fit(root, tmp_path / "parts", At(_BATCHES + 1, stop))
    signals.restore_handlers()
    assert processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert not files(tmp_path / "parts"), "nothing was scored"

    (tmp_path / "gate").touch()
    last = interrupted.value.checkpoint
    notes, scorer, _ = fit(root, tmp_path / "parts", ckpt_path=last)
    assert notes.scores() == expected.scores()
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert shares(tmp_path / "parts") == shares(tmp_path / "whole")
    assert scorer.state_dict() == {}, "all is scored"


@pytest.mark.slow
def test_scores_without_a_checkpoint_are_reported_as_lost(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(root, tmp_path, At(_BATCHES + 1, partial(signal.raise_signal, signals.TERMINATE)))
    signals.restore_handlers()
    (tmp_path / "checkpoints" / "epoch_000-step_000002.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"scores of epoch 0 are lost: .*epoch_000-step_000002"):
        notes, _, _ = fit(root, tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert [metrics["epoch"] for metrics in notes.scores().values()] == [1, 2]


@pytest.mark.slow
def test_missing_scores_without_steps_left_are_reported(root: Path, tmp_path: Path) -> None:
    class Killed(Callback):
        def on_train_end(self, *_: Any) -> None:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        fit(root, tmp_path, Killed(), epochs=-1, steps=_BATCHES)
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.warns(UserWarning, match=r"checkpoints/epoch_000-step_000002.ckpt, or"):
        fit(root, tmp_path, epochs=-1, steps=_BATCHES, ckpt_path=last)
    notes, _, _ = fit(root, tmp_path, epochs=-1, steps=_BATCHES + 1, ckpt_path=last)
    assert [metrics["epoch"] for metrics in notes.scores().values()] == [0]


@pytest.mark.slow
def test_resuming_a_finished_run_scores_nothing_twice(root: Path, tmp_path: Path) -> None:
    fit(root, tmp_path, epochs=2)
    last = tmp_path / "checkpoints" / "last.ckpt"
    notes, _, checkpoints = fit(root, tmp_path, ckpt_path=last)
    assert [metrics["epoch"] for metrics in notes.scores().values()] == [2]
    assert Path(checkpoints.best_model_path).name == "epoch_001-step_000004.ckpt"


def test_temporary_state_restores_weights_and_modes() -> None:
    model = Fading()
    frozen = torch.nn.Dropout()
    model.add_module("frozen", frozen)
    frozen.eval()
    with temporary_state(model, {"share": torch.tensor(7.0)}):
        assert model.share.item() == 7
        assert not model.training
    assert model.share.item() == 1.5
    assert model.training
    assert not frozen.training


@pytest.mark.slow
def test_blocking_false_in_a_config(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the callbacks of base.yaml otherwise; metrics are logged under their epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    callbacks = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]["callbacks"]
    assert callbacks[0]["class_path"].endswith("BSSEval")
    callbacks[0]["init_args"] = {"blocking": False}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    configs = ["--config", "unet.yaml", "--config", "mine.yaml", "--run_dir", "run"]
    assert cli.main(["fit", *configs, *TINY, *CSV, "--trainer.max_epochs=2"]) == 0

    with next(tmp_path.glob("run/**/metrics.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses, scores = (
        [(row["epoch"], row["step"]) for row in rows if row[name]]
        for name in ("val/loss", "val/sdr")
    )
    assert losses == scores == [("0", "1"), ("1", "3")]
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()
    assert len(list(tmp_path.glob("run/scores/epoch_*/val/*.json"))) == 2


# ------------------------------------------------------------ monitors


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("val/sdr", True),
        ("val/usdr/vocals", True),
        ("val/loss", False),
        ("val/skipped_frames", False),
        ("train/sdr", False),
        (None, False),
    ],
)
def test_names_of_scores(name: str | None, is_one: bool) -> None:
    assert is_validation_score(name) == is_one


@pytest.mark.parametrize(
    ("callback", "monitor"),
    [
        (EarlyStopping("val/sdr/vocals", mode="max"), None),
        (ModelCheckpoint(monitor="val/sdr"), None),
        (None, "val/usdr"),
    ],
)
def test_monitoring_a_late_score_raises(
    callback: Callback | None, monitor: str | None, root: Path, tmp_path: Path
) -> None:
    callbacks = [callback] if callback else []
    message = r"monitor: val/u?sdr.*give it monitor: val/loss, or"
    with pytest.raises(MonitorError, match=message):
        fit(root, tmp_path, *callbacks, model=Fading(monitor))


@pytest.mark.slow
def test_val_loss_may_be_monitored(root: Path, tmp_path: Path) -> None:
    fit(root, tmp_path, EarlyStopping("val/loss"), model=Fading("val/loss"), epochs=1)
    fit(root, tmp_path / "waits", blocking=True, model=Fading("val/sdr"), epochs=1)


# -------------------------------------------------------- memory and failures


def test_pending_tracks_stay_within_the_memory_limit() -> None:
    futures: list[Future[Any]] = [Future() for _ in range(3)]
    scored = ScoringPass("val", True, "epoch", Position(0, 0, 0))
    tasks: list[Any] = futures
    scored.pending.extend(("estimate", "a", 4, task) for task in tasks)
    scored.make_room(1, 13)
    assert len(scored.pending) == 3, "all fit"
    futures[1].set_result("second")
    scored.make_room(4, 12)
    assert len(scored.pending) == 3, "a finished one takes no memory"
    futures[0].set_result("first")
    scored.make_room(8, 12)
    assert len(scored.pending) == 3
    futures[2].set_result("third")
    scored.make_room(13, 12)
    assert list(map(str, scored.done["estimate"])) == ["first", "second", "third"], (
        "too large for any limit"
    )


@pytest.mark.slow
def test_a_validation_waits_when_memory_is_full(root: Path, tmp_path: Path) -> None:
    much, _, _ = fit(root, tmp_path / "much", epochs=1)
    notes, _, _ = fit(root, tmp_path / "little", epochs=1, waiting_gb=0.0)
    assert notes.scores() == much.scores()


@pytest.mark.slow
@pytest.mark.complete_run
@pytest.mark.parametrize("blocking", [True, False])
def test_tracks_of_a_killed_scoring_process_are_scored_again(
    blocking: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _, _ = fit(root, tmp_path / "whole", blocking=blocking)
    monkeypatch.setenv(GATE, str(tmp_path / "gate"))
    monkeypatch.setattr(bss_eval, "score_track", end_process)
    with pytest.warns(UserWarning, match="was killed, perhaps .* one at a time"):
        notes, _, _ = fit(root, tmp_path / "killed", blocking=blocking)
    assert notes.scores() == expected.scores()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.complete_run
@pytest.mark.parametrize("scorer", [end_process, run_out_of_memory])
def test_training_goes_on_without_a_score_that_nothing_monitors(
    scorer: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bss_eval, "score_track", scorer)
    with pytest.warns(UserWarning, match="Could not score track '0': .*memory.* continues"):
        notes, _, _ = fit(root, tmp_path, epochs=2, monitor="val/loss")
    assert len(notes.scores()) == 2
    assert {Path(name).stem for name in files(tmp_path)} == {"2"}


@pytest.mark.slow
@pytest.mark.complete_run
def test_a_monitored_score_that_cannot_be_computed_ends_the_run_with_its_track(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bss_eval, "score_track", end_process)
    with pytest.raises(ScoringError, match=r"track '0': .*killed.*memory.*--ckpt_path auto"):
        fit(root, tmp_path)
    # The state was saved, so that the resumed run can score it.
    monkeypatch.undo()
    notes, _, _ = fit(root, tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert [metrics["epoch"] for metrics in notes.scores().values()] == [0, 1, 2]
