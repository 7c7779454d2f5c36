"""Runs that are killed and resumed are bit-identical to uninterrupted ones."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.ema import EMA
from lightning_modules.callbacks.lightning_internals import batches_done
from lightning_modules.callbacks.non_finite import SkipNonFinite
from lightning_modules.callbacks.resume import ExactResume
from lightning_modules.checkpoints.files import AtomicCheckpointIO, latest_readable_checkpoint
from tests.helpers.light_runs import lighten
from tests.helpers.ranks import PROCESSES

_BATCHES = 6  # in an epoch


class Separator(SourceSeparator):
    """Has state that a resumed run could lose: batch statistics, dropout."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, bad_batches: int = 0, **arguments: Any) -> None:
        super().__init__(["vocals", "drums", "bass", "other"], segment_seconds=0.05, **arguments)
        self.bad_batches = bad_batches
        self.network = nn.Sequential(
            nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Conv1d(8, 8, 1)
        )

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.unflatten(self.network(mixture), 1, (4, 2))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        loss = nn.functional.mse_loss(self(batch.mixture).float(), batch.targets)
        last_rank = self.trainer.global_rank + 1 == self.trainer.world_size
        bad = self.training and last_rank and 1 <= batches_done(self.trainer) <= self.bad_batches
        return {"loss": loss * torch.nan if bad else loss}


@dataclass(frozen=True)
class Setting:
    """Settings of a training.

    Attributes:
        trainer: Arguments of the trainer.
        checkpoints: Arguments of the checkpoint callback.
        scheduler: Factory of the learning rate scheduler.
        ema: Arguments of ``EMA``; not used if empty.
        patience: Patience of early stopping; None without it.
        scaler: Whether to train in 16 bit with a loss scaler.
        bad_batches: Number of batches after the first whose loss is NaN on the last rank.
        ranks: Number of processes.
        num_workers: Worker processes of the loader.
        scored: Whether checkpoints are chosen by scores computed while the next epoch trains.
    """

    trainer: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Callable[..., Any] | None = None
    ema: Mapping[str, Any] = field(default_factory=dict)
    patience: int | None = None
    scaler: bool = False
    bad_batches: int = 0
    ranks: int = 1
    num_workers: int = 0
    scored: bool = False


@dataclass(frozen=True)
class Kill:
    """When a run is killed by SIGKILL.

    Attributes:
        hook: Name of a callback's hook, or of a function of ``os``.
        batches: Number of training batches processed before.
        rank: The process that is killed.
        saves: Whether the hook runs and a checkpoint is written just before.
    """

    hook: str
    batches: int
    rank: int = 0
    saves: bool = False


class Witness(Callback):
    """Records positions, losses and weights, and kills the process."""

    def __init__(self, folder: Path, kill: Kill | None) -> None:
        self.folder, self.kill = folder, kill

    def _write(self, trainer: Trainer, kind: str, value: Any) -> None:
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            print(json.dumps([kind, batches_done(trainer), value]), file=file)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        kill = self.kill
        if kill is None or kill.rank != trainer.global_rank:
            return

        place = os if hasattr(os, kill.hook) else self
        hook = getattr(place, kill.hook)

        def kill_when_due(*arguments: Any) -> Any:
            due = batches_done(trainer) >= kill.batches
            if due and kill.saves:
                hook(*arguments)
                checkpoints: Any = trainer.checkpoint_callback
                checkpoints.save_latest(trainer, checkpoints.monitor_candidates(trainer))
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            return hook(*arguments)

        setattr(place, kill.hook, kill_when_due)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        positions = trainer.datamodule.positions  # type: ignore[attr-defined]
        weights = nn.utils.parameters_to_vector(pl_module.parameters()).double().sum()
        seen = [positions, float(outputs["loss"]).hex(), float(weights).hex()]
        self._write(trainer, "batch", seen)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        state = [float(value.double().sum()).hex() for value in pl_module.state_dict().values()]
        self._write(trainer, "validated", state)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "validation", float(trainer.callback_metrics["val/loss"]).hex())


def train(setting: Setting, root: Path, folder: Path, kill: Kill | None, rank: int) -> None:
    """Train from the start, or resume an earlier call that was killed."""
    os.environ.update(WORLD_SIZE=str(setting.ranks), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    lighten(pytest.MonkeyPatch())
    seed_everything(1)
    monitored = ("val/usdr", "max") if setting.scored else ("val/loss", "min")
    callbacks: list[Callback] = [
        ExactResume(),
        SkipNonFinite(),
        Checkpoints(*monitored, 2, **setting.checkpoints),
        Witness(folder, kill),
    ]
    if setting.scored:
        callbacks.append(BSSEval(1, blocking=False))
    if setting.ema:
        callbacks.append(EMA(**setting.ema))
    if setting.patience is not None:
        callbacks.append(EarlyStopping("val/loss", patience=setting.patience))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if setting.scaler:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        plugins.append(MixedPrecision("16-mixed", "cpu", scaler))
    options: dict[str, Any] = {"max_epochs": 4, **setting.trainer}
    parts = options.get("accumulate_grad_batches", 1)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=setting.ranks,
        strategy="ddp" if setting.ranks > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=plugins,
        **options,
    )
    data = MUSDBDataModule(
        root=str(root),
        segment_seconds=0.05,
        batch_size=4 * parts,
        examples_per_epoch=4 * _BATCHES,
        validation_crops_per_track=2,
        num_workers=setting.num_workers,
    )
    last = None
    if (folder / "checkpoints").exists():
        last = latest_readable_checkpoint(folder / "checkpoints")[0]
    model = Separator(
        setting.bad_batches, optimizer=partial(Adam, lr=0.01), lr_scheduler=setting.scheduler
    )
    trainer.fit(model, data, ckpt_path=last, weights_only=True)


def start(setting: Setting, root: Path, folder: Path, kill: Kill | None = None) -> list[int]:
    """Train in separate processes; return their exit codes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    processes = [
        PROCESSES.Process(target=train, args=(setting, root, folder, kill, rank))
        for rank in range(setting.ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return [-999 if code is None else code for code in codes]


def records(folder: Path, rank: int = 0) -> dict[tuple[str, int], Any]:
    """Records of a rank by kind and batch; records of the same batch must be equal."""
    seen: dict[tuple[str, int], Any] = {}
    for line in (folder / f"{rank}.jsonl").read_text().splitlines():
        kind, batches, value = json.loads(line)
        # Validations are not repeated, except one that a rank ends after the other was killed.
        assert rank or kind != "validation" or (kind, batches) not in seen, batches
        assert seen.setdefault((kind, batches), value) == value, (kind, batches)
    return seen


def assert_same(ours: Any, theirs: Any, place: str = "") -> None:
    """Compare two checkpoints bit by bit."""
    assert type(ours) is type(theirs), place
    if isinstance(ours, Mapping):
        assert list(ours) == list(theirs), place
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{place}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), place
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{place}/{number}")
    elif isinstance(ours, Tensor):
        assert torch.equal(ours, theirs), place
    else:
        assert ours == theirs, place


def contents(folder: Path) -> Any:
    """A run's last checkpoint without the paths of the run's folder."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    # Lightning counts the steps of an epoch too, but never uses the count.
    steps = "epoch_loop.automatic_optimization.optim_progress"
    for progress in checkpoint["loops"]["fit_loop"][steps]["optimizer"].values():
        del progress["current"]
    for name, state in checkpoint["callbacks"].items():
        if name.startswith("Checkpoints"):
            for key in [key for key in state if "path" in key]:
                state[key] = Path(state[key]).name
            best = state["best_k_models"].items()
            state["best_k_models"] = {Path(path).name: value for path, value in best}
    return checkpoint


_PLATEAU = partial(ReduceLROnPlateau, patience=0, threshold=10.0)
_COSINE = partial(CosineAnnealingLR, T_max=5)
# Settings, and how each run is stopped: killed, or ended by other arguments of the trainer.
SETTINGS: dict[str, tuple[Setting, Sequence[Kill | Mapping[str, Any]]]] = {
    # Accumulation; a scheduler and early stopping that monitor the validation.
    "epochs": (
        Setting(
            {"accumulate_grad_batches": 2}, {"save_every_n_steps": 1}, _PLATEAU, {"decay": 0.9}, 9
        ),
        [
            Kill("on_train_batch_start", 3),
            Kill("on_validation_epoch_end", _BATCHES),
            Kill("on_train_epoch_start", _BATCHES),
            Kill("fsync", 2 * _BATCHES + 2),
            Kill("on_train_batch_end", 3 * _BATCHES + 4),
        ],
    ),
    # Validations within epochs, max_steps, an average per epoch.
    "steps": (
        Setting(
            {"max_steps": 21, "max_epochs": -1, "val_check_interval": 0.5},
            {"save_every_seconds": 0.0, "save_every_n_steps": 3},
            _COSINE,
            {"decay": 0.9, "every": "epoch", "warm_up": False},
        ),
        [
            Kill("on_validation_epoch_end", 3),
            Kill("on_train_batch_start", 7),
            Kill("on_train_epoch_start", 2 * _BATCHES),
            Kill("replace", 3 * _BATCHES),
        ],
    ),
    # Epochs without a validation, also the last one, and a loss scaler.
    "gaps": (
        Setting(
            {"check_val_every_n_epoch": 2, "max_epochs": 5},
            {},
            _PLATEAU,
            scaler=True,
            bad_batches=2,
        ),
        [
            Kill("on_train_batch_start", _BATCHES + 2),
            Kill("on_validation_epoch_end", 2 * _BATCHES),
            Kill("on_train_batch_end", 3 * _BATCHES, saves=True),
            Kill("on_train_epoch_end", 5 * _BATCHES),
        ],
    ),
    # max_steps within an epoch without validation, then more steps.
    "more": (
        Setting({"max_steps": 15, "max_epochs": -1, "limit_val_batches": 0}),
        [{"max_steps": 2 * _BATCHES}, {"max_steps": 2 * _BATCHES + 1}],
    ),
    # Early stopping; a loader process reads ahead.
    "early": (
        Setting({"max_epochs": 9, "val_check_interval": 0.5}, patience=1, num_workers=1),
        [Kill("on_train_end", 0)],
    ),
    "ranks": (
        Setting(
            {"accumulate_grad_batches": 2, "max_epochs": 2},
            {"save_every_n_steps": 1},
            ema={"decay": 0.9},
            bad_batches=1,
            ranks=2,
        ),
        [Kill("on_train_batch_start", 4, rank=1), Kill("on_validation_epoch_end", _BATCHES)],
    ),
    # Killed while scores are computed, also on one of two ranks, and while checkpoints are chosen.
    "scores": (
        Setting(checkpoints={"save_every_n_steps": 1}, ema={"decay": 0.9}, ranks=2, scored=True),
        [
            Kill("on_train_batch_start", _BATCHES + 1, rank=1),
            Kill("on_validation_epoch_end", 2 * _BATCHES),
            Kill("replace", 3 * _BATCHES + 1),
            Kill("on_train_end", 4 * _BATCHES),
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_killed_and_resumed_run_is_bit_identical(
    name: str, musdb_root: Path, tmp_path: Path
) -> None:
    setting, ends = SETTINGS[name]
    assert start(setting, musdb_root, tmp_path / "whole") == [0] * setting.ranks
    for end in ends:
        if isinstance(end, Kill):
            codes = start(setting, musdb_root, tmp_path / "parts", end)
            assert codes[end.rank] == -signal.SIGKILL, (end, codes)
        else:
            shorter = replace(setting, trainer={**setting.trainer, **end})
            assert start(shorter, musdb_root, tmp_path / "parts") == [0], end
    assert start(setting, musdb_root, tmp_path / "parts") == [0] * setting.ranks
    for rank in range(setting.ranks):
        assert records(tmp_path / "parts", rank) == records(tmp_path / "whole", rank)
    last = contents(tmp_path / "whole")
    assert_same(contents(tmp_path / "parts"), last)
    assert last["callbacks"]["SkipNonFinite"]["skipped"] == setting.bad_batches
    weights = [
        [
            seen[2]
            for (kind, _), seen in records(tmp_path / "whole", rank).items()
            if kind == "batch"
        ]
        for rank in range(setting.ranks)
    ]
    assert weights[0] == weights[-1]
    files = [
        sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir())
        for run in ("parts", "whole")
    ]
    assert files[0] == files[1]
    scores = [
        {
            path.relative_to(tmp_path / run): path.read_text()
            for path in tmp_path.glob(f"{run}/scores/**/*.json")
        }
        for run in ("parts", "whole")
    ]
    assert scores[0] == scores[1]
    assert bool(scores[0]) == setting.scored
