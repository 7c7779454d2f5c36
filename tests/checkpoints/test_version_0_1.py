"""Checkpoints, exported folders and run configs of version 0.1 load and give the same estimates.

Version 0.1 wrote ``version_0_1/``. ``<config>.json`` holds samples of the estimates of a
fixed input. If there is no ``<config>.ckpt``, it also holds the description and the
names and shapes of the weights, which are then drawn from a seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_modules import cli, load_separator
from lightning_modules.base.description import KEY, check_same_model
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import config_names, read_config

FOLDER = Path(__file__).parent / "version_0_1"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
CONFIGS = sorted(path.stem for path in (FOLDER / "configs").glob("*.yaml"))


def random_state(recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of the stored estimates."""
    state = {
        name: torch.full(buffer["shape"], buffer["value"], dtype=getattr(torch, buffer["dtype"]))
        for name, buffer in recipe["buffers"].items()
    }
    for number, (name, shape) in enumerate(recipe["parameters"].items()):
        random = np.random.Generator(np.random.Philox(key=[number, 0]))
        state[name] = torch.from_numpy(random.uniform(-0.2, 0.2, shape).astype(np.float32))
    return state


def stored_checkpoint(name: str, folder: Path) -> Path:
    """The checkpoint of a config: the stored file, or one built from the stored recipe."""
    path = FOLDER / f"{name}.ckpt"
    if path.is_file():
        return path
    recipe = json.loads(path.with_suffix(".json").read_text())
    path = folder / f"{name}.ckpt"
    torch.save({KEY: recipe["separator"], "state_dict": random_state(recipe)}, path)
    return path


def check_estimates(model: SourceSeparator, name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text())["estimates"]
    random = np.random.Generator(np.random.Philox(key=[7, 0]))
    noise = random.standard_normal((1, model.audio_channels, 8000)).astype(np.float32)
    with torch.no_grad():
        estimates = model(0.1 * torch.from_numpy(noise))
    assert list(estimates.shape) == expected["shape"]
    samples = estimates.flatten()[:: estimates.numel() // 40][:40]
    torch.testing.assert_close(samples, torch.tensor(expected["samples"]), atol=2e-5, rtol=1e-4)


def test_every_architecture_of_version_0_1_is_stored() -> None:
    roots = {name for name in config_names() if "/" not in name}
    # mmdense_lstm is a second config of the same class.
    assert roots >= set(CONFIGS) == {*NAMES, "mmdense_lstm"}
    assert len(NAMES) == 15


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints(name: str, tmp_path: Path) -> None:
    path = stored_checkpoint(name, tmp_path)
    model = load_separator(path)
    check_estimates(model, name)
    # What `test` and a resumed `fit` check before they load the weights.
    check_same_model(read_checkpoint(path), model)


@pytest.mark.parametrize("name", NAMES)
def test_exported_folders(name: str, tmp_path: Path) -> None:
    folder = FOLDER / "unet_folder"
    if name != "unet":
        contents = torch.load(stored_checkpoint(name, tmp_path), weights_only=True)
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(contents[KEY]))
        state = {key: value.contiguous() for key, value in contents["state_dict"].items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    check_estimates(load_separator(folder), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_run_configs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = FOLDER / "configs" / f"{name}.yaml"
    built, now = build_model(str(path)), build_model(name)
    assert type(built.model) is type(now.model)
    augmentations = built.data["augmentations"] or []
    assert all(each["class_path"].count(".") == 2 for each in augmentations)
    # All sections of the file, read by the command line.
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.prepare(["validate", "--config", str(path)])[-1] == str(path)
    assert read_config(path)["model"]["class_path"].startswith("lightning_modules.architectures.")


@pytest.mark.slow
def test_test_command_on_a_run_of_version_0_1(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = stored_checkpoint("wave_unet", tmp_path)
    settings = torch.load(checkpoint, weights_only=True)[KEY]["init_args"]
    tiny = [
        f"--model.init_args.{key}={json.dumps(settings[key])}"
        for key in ("levels", "filters", "context")
    ]
    words = ["test", "--config", str(FOLDER / "configs" / "wave_unet.yaml"), *tiny]
    words += ["--ckpt_path", str(checkpoint), f"--data.init_args.root={musdb_root}"]
    words += ["--data.init_args.segment_seconds=0.5", "--trainer.logger=false"]
    assert cli.main([*words, "--run_dir", "run"]) == 0
    assert list(Path("run/scores/estimate/test").glob("*.json"))
