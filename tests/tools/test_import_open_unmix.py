"""Weights of the package ``openunmix`` as a checkpoint; mistakes are in tests/test_mistakes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules import cli
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop.open_unmix import from_package
from lightning_modules.tools.import_open_unmix import main
from tests.helpers.command_line import CSV
from tests.helpers.open_unmix_package import package_networks, write


def test_checkpoint_gives_the_estimates_of_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(package_networks(["bass", "vocals"]), tmp_path, nhop=128)
    output = tmp_path / "new" / "umx.ckpt"
    assert main([str(tmp_path), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    separator = load_separator(output)
    assert separator.sources == ["vocals", "bass"]
    mixture = 0.1 * torch.randn(1, 2, 10_000)
    with torch.no_grad():
        assert torch.equal(separator(mixture), from_package(tmp_path)(mixture))


@pytest.mark.slow
def test_checkpoint_loads_into_the_model_of_the_config(
    tmp_path: Path, musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(package_networks(), tmp_path, nhop=128)
    assert main([".", "-o", "umx.ckpt"]) == 0
    sizes = {"hidden_size": 16, "n_fft": 512, "hop_length": 128}
    arguments = [f"--model.init_args.{name}={value}" for name, value in sizes.items()]
    arguments += [f"--data.init_args.root={musdb_root}", "--data.init_args.num_workers=0", *CSV]
    config = ["--config", "open_unmix.yaml", "--ckpt_path", "umx.ckpt", "--run_dir", "run"]
    assert cli.main(["test", *config, *arguments, "--trainer.accelerator=cpu"]) == 0
    assert Path("run/scores/estimate/test/Test - Song.json").is_file()
