"""When states are saved, which are kept, and under which names."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer

from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.unet import UNet
from lightning_modules.callbacks.checkpoints import Checkpoints, Interrupted, complete_sdr
from lightning_modules.callbacks.lightning_internals import batches_done
from lightning_modules.callbacks.resume import ExactResume
from lightning_modules.checkpoints.files import AtomicCheckpointIO
from lightning_modules.runtime import signals

BATCHES = 6  # in an epoch


class Recording(Checkpoints):
    """Records which files are written after which batch."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("val/loss", "min", **arguments)
        self.saved: list[tuple[str, int]] = []

    def write(self, trainer: Trainer, filepath: str) -> None:
        super().write(trainer, filepath)
        self.saved.append((Path(filepath).stem, batches_done(trainer)))


def fit(root: Path, folder: Path, *callbacks: Callback, **options: Any) -> None:
    accumulated = options.get("accumulate_grad_batches", 1)
    sources = ["vocals", "drums", "bass", "other"]
    model = UNet(sources, **{**UNet.tiny, "channels": [2]}, segment_seconds=0.05)
    data = MUSDBDataModule(
        root=str(root),
        segment_seconds=0.05,
        batch_size=2 * accumulated,
        examples_per_epoch=2 * BATCHES,
        validation_crops_per_track=1,
        num_workers=0,
    )
    Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ExactResume(), *callbacks],
        plugins=[AtomicCheckpointIO()],
        **{"max_epochs": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0, **options},
    ).fit(model, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "options", "batches"),
    [
        # An epoch without a validation is saved after the next batch, or at the very end.
        ({}, {}, [7, 12]),
        ({"save_every_n_steps": 5}, {}, [5, 7, 10, 12]),
        ({"save_every_seconds": 0.0}, {}, [7, 10, 12]),
        ({"save_every_n_steps": 1}, {"accumulate_grad_batches": 2}, [2, 4, 8, 10, 12]),
        ({}, {"max_epochs": -1, "max_steps": 9}, [7, 9]),
    ],
)
def test_last_is_saved_between_steps(
    musdb_root: Path,
    tmp_path: Path,
    when: dict[str, Any],
    options: dict[str, Any],
    batches: list[int],
) -> None:
    spy = Recording(**when)
    fit(musdb_root, tmp_path, spy, **options)
    assert spy.saved == [("last", number) for number in batches]


@pytest.mark.slow
def test_the_best_and_the_last_are_saved_after_a_validation(
    musdb_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt.partial").touch()
    spy = Recording(save_top_k=1)
    fit(musdb_root, tmp_path, spy, limit_val_batches=1)
    assert [name for name, _ in spy.saved if name == "last"] == ["last", "last"]
    assert spy.saved[:2] == [("epoch_000-step_000006", 6), ("last", 6)]
    folder = tmp_path / "checkpoints"
    best = Path(spy.best_model_path).name
    found = {path.name for path in folder.iterdir()}
    assert found == {best, "best.ckpt", "last.ckpt", "previous.ckpt"}
    assert (folder / "best.ckpt").resolve().name == best


def test_a_stop_waits_for_the_end_of_an_accumulated_step(musdb_root: Path, tmp_path: Path) -> None:
    class Stopping(Recording):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            if batches_done(trainer) == 3:
                signal.raise_signal(signals.CTRL_C)
            super().on_train_batch_end(trainer, *arguments)

    spy = Stopping()
    with pytest.raises(Interrupted):
        fit(musdb_root, tmp_path, spy, accumulate_grad_batches=2)
    signals.restore_handlers()
    assert spy.saved == [("last", 4)]


def test_paths_of_the_best_follow_a_moved_directory(tmp_path: Path) -> None:
    before, after = Checkpoints(), Checkpoints()
    before.dirpath, after.dirpath = "/old/checkpoints", str(tmp_path)
    before.best_model_path = before.kth_best_model_path = "/old/checkpoints/a.ckpt"
    before.best_k_models = {"/old/checkpoints/a.ckpt": torch.tensor(3.0)}
    before.best_model_score = before.current_score = torch.tensor(3.0)
    before.kth_value = torch.tensor(3.0)
    after.load_state_dict(before.state_dict())
    assert after.best_model_path == after.kth_best_model_path == str(tmp_path / "a.ckpt")
    assert after.best_k_models == {str(tmp_path / "a.ckpt"): torch.tensor(3.0)}
    assert after.best_model_score == 3.0
    assert after.last_model_path == ""


@pytest.mark.parametrize("name", ["save_every_n_steps", "save_every_seconds"])
def test_bad_intervals_are_refused(name: str) -> None:
    arguments: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=f"{name} is -1: give"):
        Checkpoints(**arguments)


def test_silent_estimates_lower_the_sdr_that_checkpoints_are_chosen_by() -> None:
    names = ("vocals", "bass")
    good = {f"val/sdr/{n}": torch.tensor(v) for n, v in zip(names, (2.0, 1.0), strict=True)}
    good |= {f"val/usdr/{n}": torch.tensor(3.0) for n in names}
    assert complete_sdr(good)["val/sdr"] == 1.5
    silent = {**good, "val/sdr/bass": torch.tensor(torch.nan)}
    silent["val/usdr/bass"] = torch.tensor(0.0)
    assert complete_sdr(silent)["val/sdr"] == 1.0
    assert complete_sdr({}) == {}


# ------------------------------------------------------------- generators


def test_generators_are_seeded_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different for each batch, rank and purpose; reproducible, and the same on any device."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)

    def draw(batches: int, rank: int, validating: bool = False, device: str = "cpu") -> Any:
        progress = SimpleNamespace(total=SimpleNamespace(processed=batches))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        trainer: Any = SimpleNamespace(fit_loop=loop, global_rank=rank)
        model: Any = SimpleNamespace(device=torch.device(device))
        if validating:
            resume.on_validation_start(trainer, model)
        else:
            resume.on_train_batch_start(trainer, model, None, 0)
        return torch.rand(1).item(), np.random.rand(), random.random()

    resume = ExactResume()
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    try:
        positions = [(0, 0, False), (1, 0, False), (0, 1, False), (0, 0, True)]
        draws = [draw(*position) for position in positions]
        assert len({value for each in draws for value in each}) == 3 * len(positions)
        assert [draw(*position) for position in positions] == draws
        assert seeds == []
        assert draw(0, 0, device="cuda") == draws[0]
        assert seeds == [torch.initial_seed()]
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
