"""Weights of the package ``demucs`` as a checkpoint; mistakes are in tests/test_mistakes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules import cli
from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop.demucs import PACKAGE_SOURCES, from_package
from lightning_modules.tools import import_demucs
from tests.helpers.command_line import CSV
from tests.helpers.demucs_package import network


def test_checkpoint_gives_the_estimates_of_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, output = tmp_path / "demucs.th", tmp_path / "new" / "demucs.ckpt"
    torch.save(network(2).state_dict(), weights)
    options = ["--sources", "bass", "vocals", "--no-resample"]
    assert import_demucs.main([str(weights), "-o", str(output), *options]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    separator = load_separator(output)
    assert separator.sources == ["vocals", "bass"]
    mixture = 0.1 * torch.randn(1, 2, 10_000)
    expected = from_package(weights, ["bass", "vocals"], resample=False)
    with torch.no_grad():
        assert torch.equal(separator(mixture), expected(mixture))


@pytest.mark.slow
def test_hybrid_weights(tmp_path: Path) -> None:
    weights, output = tmp_path / "hybrid.pt", tmp_path / "hybrid.ckpt"
    theirs = HybridDemucs(list(PACKAGE_SOURCES), channels=4, n_fft=1024)
    torch.save(theirs.network.state_dict(), weights)
    assert import_demucs.main([str(weights), "-o", str(output)]) == 0
    separator = load_separator(output)
    assert isinstance(separator, HybridDemucs)
    assert separator.sources == ["vocals", "drums", "bass", "other"]


@pytest.mark.slow
def test_checkpoint_loads_into_the_model_of_the_config(
    tmp_path: Path, musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(network().state_dict(), "demucs.th")
    assert import_demucs.main(["demucs.th", "-o", "demucs.ckpt"]) == 0
    sizes = {"channels": 4, "depth": 4}
    arguments = [f"--model.init_args.{name}={value}" for name, value in sizes.items()]
    arguments += [f"--data.init_args.root={musdb_root}", "--data.init_args.num_workers=0", *CSV]
    config = ["--config", "demucs.yaml", "--config", "demucs/2020.yaml"]
    config += ["--ckpt_path", "demucs.ckpt", "--run_dir", "run"]
    assert cli.main(["test", *config, *arguments, "--trainer.accelerator=cpu"]) == 0
    assert Path("run/scores/estimate/test/Test - Song.json").is_file()
