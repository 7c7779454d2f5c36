"""Options of README and docs in combination, on one device and on two that Lightning starts."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.checkpoints.loading import load_separator, read_checkpoint
from lightning_modules.configuration.files import CONFIGS
from tests.helpers.command_line import CSV, REPOSITORY, TINY, run
from tests.helpers.configs import tiny_settings
from tests.helpers.tracks import write_track

NON_BLOCKING = "background.yaml"
OPTIONS = {
    "non_blocking_scores": ["--config", NON_BLOCKING],
    "ema": ["--trainer.callbacks+=lightning_modules.callbacks.ema.EMA"],
    "accumulation": ["--trainer.accumulate_grad_batches=2"],
    "compiled": ["--model.init_args.compiled=true"],
    "bf16": ["--trainer.precision=bf16-mixed"],
    "checkpointing": ["--model.init_args.checkpoint_activations=true"],
    "plateau": ["--model.init_args.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"],
    "devices": ["--trainer.devices=2"],
}


def pairwise(names: list[str]) -> list[list[str]]:
    """Six sets of options that contain every pair both, one without the other, and not at all.

    Two sets share out the options. Each option is in three of four further sets. Options of one
    share differ in these; options of two shares need not.
    """
    parts = [names[::2], names[1::2]]
    places = [list(zip(part, combinations(range(4), 3), strict=False)) for part in parts]
    further = [[name for part in places for name, rows in part if row in rows] for row in range(4)]
    return [*parts, *further]


ON_ONE_DEVICE = [name for name in OPTIONS if name != "devices"]
# Two devices take long: here with all options, in tests/test_stemlab.py without any.
ROWS = [*pairwise(ON_ONE_DEVICE), [], [*OPTIONS]]


def test_every_pair_is_covered() -> None:
    for pair in combinations(ON_ONE_DEVICE, 2):
        seen = {tuple(name in row for name in pair) for row in ROWS}
        assert seen == set(product([False, True], repeat=2)), pair


def fit(row: list[str], *more: str) -> None:
    """Train with options; with two devices by the command line, which Lightning starts again."""
    words = ["fit", "--config", "conv_tasnet.yaml", *tiny_settings("conv_tasnet")]
    words += [word for word in TINY if not word.startswith("--model")]
    words += ["--trainer.check_val_every_n_epoch=1", "--data.init_args.root=data", *CSV]
    words += ["--run_dir=run", *more]
    words += [word for name in row for word in OPTIONS[name]]
    if "devices" not in row:
        assert run(*words) == 0
        return
    # The graphs are captured, but not translated to C++, which takes minutes.
    variables = {"TORCH_COMPILE_OVERRIDE_BACKENDS": ">=0:eager", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lightning_modules.cli", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        check=False,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "+".join(row) or "defaults")
def test_combined_options_train_resume_and_score(
    row: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # For runs of this process.
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend="eager")
    )
    for number in range(3):
        write_track(Path("data/train", str(number)), seconds=2.2, seed=number)
    callbacks = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]["callbacks"]
    callbacks[0]["init_args"] = {"blocking": False}
    Path(NON_BLOCKING).write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))

    fit(row)
    first = read_checkpoint(Path("run/checkpoints/last.ckpt"))
    fit(row, "--trainer.max_epochs=2", "--ckpt_path=last")
    last = read_checkpoint(Path("run/checkpoints/last.ckpt"))
    steps = 2  # of an epoch: the batches of all ranks and accumulated parts make one step
    assert (first["global_step"], last["global_step"]) == (steps, 2 * steps)
    assert ("averaging_state" in last) == ("ema" in row)
    scored = {path.parents[1].name for path in Path("run/scores").glob("epoch_*/val/*.json")}
    assert scored == {f"epoch_{epoch:03d}-step_{steps * (epoch + 1):06d}" for epoch in range(2)}
    estimates = load_separator(Path("run/checkpoints/best.ckpt")).separate(torch.randn(2, 30_001))
    assert estimates.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_ranks_that_copy_this_process_are_refused(
    strategy: str, musdb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"--data.init_args.root={musdb_root}"
    settings = [*TINY, *CSV, root, "--run_dir", str(tmp_path / "run")]
    assert run("fit", "--config", "unet.yaml", *settings, "--trainer.strategy", strategy) == 2
    error = capsys.readouterr().err
    assert "give --trainer.strategy=ddp" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
