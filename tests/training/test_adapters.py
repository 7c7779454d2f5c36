"""Runs with low-rank adapters, groups of weights and an average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration.build import build_model
from tests.helpers.checkpoints import save
from tests.helpers.command_line import CSV, TINY, run

MODEL = [
    "--model.init_args.hidden=[8,8]",
    "--model.init_args.n_fft=512",
    "--model.init_args.hop_length=256",
]
SETTINGS = [
    *MODEL, *TINY[3:], *CSV,
    "--model.init_args.pretrained=first.ckpt",
    "--model.init_args.lora.rank=2",
    '--model.init_args.parameter_groups={"right$": {lr_factor: 0.5}}',
    "--model.init_args.optimizer=torch.optim.AdamW",
    "--trainer.callbacks+=lightning_modules.callbacks.ema.EMA",
]  # fmt: skip


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = build_model("fnn.yaml", MODEL).model
    save(first, Path("first.ckpt"))
    fit = ["fit", "--config", "fnn.yaml", *SETTINGS, f"--data.init_args.root={musdb_root}"]
    assert run(*fit, "--run_dir=a") == 0
    resumed = ["--run_dir=a", "--ckpt_path=last", "--trainer.max_epochs=2"]
    assert run(*fit, *resumed) == 0
    assert run(*fit, "--run_dir=b", "--trainer.max_epochs=2") == 0
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in "ab"
    )
    for part in ("state_dict", "current_model_state", "lora"):
        assert ours[part].keys() == theirs[part].keys()
        for name, value in ours[part].items():
            assert torch.equal(value, theirs[part][name]), (part, name)
    # Only the matrices of linear layers have changed, and the file is that of a plain model.
    changed = {
        name
        for name, value in load_separator(tmp_path / "a/checkpoints/last.ckpt").state_dict().items()
        if not torch.equal(value, first.state_dict()[name])
    }
    assert changed
    assert all(name.endswith(".weight") for name in changed)
