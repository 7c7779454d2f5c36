"""Valid and invalid files of every kind, for tests of mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch

from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.architectures.unet import UNet
from tests.helpers.checkpoints import save
from tests.helpers.comparison import write_run
from tests.helpers.demucs_package import network
from tests.helpers.open_unmix_package import package_networks, write
from tests.helpers.tracks import write_track


def write_faulty_files(here: Path) -> None:
    """Write songs, data sets, checkpoints, configs, a run and a score file."""
    _songs(here)
    _data_sets(here)
    _models(here)
    write_run(here / "runs/one", {"a": 1.0, "b": 2.0})
    (here / "runs/raw/checkpoints").mkdir(parents=True)
    (here / "runs/raw/started").touch()
    (here / "broken").mkdir()
    (here / "broken/a.json").write_text('{"targets": [{"name": "voc')
    (here / "void").mkdir()
    (here / "taken").write_text("mine")
    (here / "list.csv").write_text("A,vocals,a.wav\n")
    (here / "typo.yaml").write_text("modle: {}\n")
    (here / "variant.yaml").write_text("trainer: {max_epochs: 1}\n")
    (here / "number.yaml").write_text("trainer: 5\n")
    (here / "interpolation.yaml").write_text("trainer: {max_epochs: '${nope}'}\n")
    (here / "twice.yaml").write_text("trainer: {}\ntrainer: {}\n")
    (here / "ensemble.yaml").write_text(
        "model:\n"
        "  class_path: lightning_modules.architectures.ensemble.Ensemble\n"
        "  init_args: {members: [model.ckpt, model.ckpt]}\n"
    )
    (here / "two.yaml").write_text(
        "model: {class_path: lightning_modules.architectures.unet.UNet}\n"
        "data: {init_args: {sources: {vocals: [vocals], other: [drums, bass, other]}}}\n"
    )


def _songs(here: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (22_050, 2))
    soundfile.write(here / "song.wav", noise, 44100)
    soundfile.write(here / "nan.wav", np.full_like(noise, np.nan), 44100, subtype="FLOAT")
    (here / "cut.wav").write_bytes((here / "song.wav").read_bytes()[:5000])
    (here / "text.wav").write_text("dear diary")
    (here / "empty.wav").touch()


def _data_sets(here: Path) -> None:
    data = here / "data"
    for number, name in enumerate(("train/A - 1", "train/B - 2", "test/C - 3")):
        write_track(data / name, 0.6, seed=number)
    (here / "bare_data/train").mkdir(parents=True)
    shutil.copytree(data / "train", here / "train_data/train")
    shutil.copytree(data / "test", here / "estimates/test")
    for fault in ("nan", "cut", "rate", "missing"):
        shutil.copytree(data, here / f"{fault}_data")
        bass = here / f"{fault}_data/train/B - 2/bass.wav"
        samples, rate = soundfile.read(bass)
        if fault == "nan":
            samples[7] = np.nan
            soundfile.write(bass, samples, rate, subtype="FLOAT")
        elif fault == "cut":
            bass.write_bytes(bass.read_bytes()[:900])
        elif fault == "rate":
            soundfile.write(bass, samples, 48000)
        else:
            bass.unlink()


def _models(here: Path) -> None:
    torch.manual_seed(0)
    model = UNet(["vocals", "other"], segment_seconds=0.5, **UNet.tiny)
    save(model, here / "model.ckpt")
    torch.nn.init.constant_(model.network.output[0].bias, torch.inf)  # type: ignore[arg-type]
    save(model, here / "broken.ckpt")
    save(DenoisingAutoencoder(["music"], **DenoisingAutoencoder.tiny), here / "denoiser.ckpt")
    (here / "cut.ckpt").write_bytes((here / "model.ckpt").read_bytes()[:3000])
    (here / "text.ckpt").write_text("hello")
    torch.save({"weights": torch.zeros(1)}, here / "other.ckpt")
    torch.save(network(2).state_dict(), here / "demucs.th")
    for name in ("package", "text_package"):
        (here / name).mkdir()
    write(package_networks(["bass", "vocals"]), here / "package", nhop=128)
    (here / "text_package/vocals-1.pth").write_text("no weights")
