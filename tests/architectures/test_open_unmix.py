"""Open-Unmix: counts, input statistics and loss; parity is tested in ``tests/reference``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pytorch_lightning import Trainer

from datamodules.batches import Batch
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.base.standardised_input import input_statistics
from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.configs import settings_of
from tests.helpers.ranks import several_ranks
from tests.helpers.tracks import STEMS, write_track

FOUR = ["vocals", "drums", "bass", "other"]
SMALL = {"hidden_size": 16, "n_fft": 512, "hop_length": 256, "segment_seconds": 0.5}


def small(sources: list[str] = FOUR, **arguments: Any) -> OpenUnmix:
    torch.manual_seed(0)
    return OpenUnmix(sources, **{**SMALL, **arguments}).eval()


def data_of(root: Path, **arguments: Any) -> MUSDBDataModule:
    return MUSDBDataModule(
        str(root),
        **{"segment_seconds": 0.5, "batch_size": 4, "num_workers": 0, **arguments},
    )


def fit(model: OpenUnmix, data: MUSDBDataModule, **arguments: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **arguments,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=data)
    return trainer


def test_parameter_count_equals_its_formula() -> None:
    def lstm(inputs: int, hidden: int) -> int:  # two directions of four gates, two biases each
        return 2 * 4 * (inputs * hidden + hidden * hidden + 2 * hidden)

    one = 2 * 1487 * 512 + 2 * 512  # bandwidth of 16 kHz, and batch norm
    one += lstm(512, 256) + 2 * lstm(2 * 256, 256)
    one += (512 + 512) * 512 + 2 * 512
    one += 512 * 2 * 2049 + 2 * 2 * 2049
    one += 2 * 1487 + 2 * 2049  # statistics of the input, scaling of the output
    model = OpenUnmix(FOUR, n_fft=4096, hop_length=1024)
    assert sum(p.numel() for p in model.parameters()) == 4 * one == 35_573_392


def test_unidirectional_networks_are_causal() -> None:
    magnitudes = torch.rand(1, 2, 257, 20)
    changed = magnitudes.clone()
    changed[..., 12:] = torch.rand(1, 2, 257, 8)
    with torch.no_grad():
        for unidirectional in (True, False):
            model = small(unidirectional=unidirectional)
            same = model.magnitudes(magnitudes) == model.magnitudes(changed)
            assert bool(same[..., :12].all()) == unidirectional


def test_bins_above_the_bandwidth_are_estimated_but_not_read() -> None:
    model = small(bandwidth_hz=8000.0)
    mean = model.networks["vocals"].input_mean
    assert isinstance(mean, torch.Tensor)
    assert len(mean) == 93, "92 x 44100 / 512 Hz is the last bin up to 8 kHz"
    magnitudes = torch.rand(1, 2, 257, 20)
    magnitudes[:, :, 150] = 1
    louder = magnitudes.clone()
    louder[:, :, 150] *= 2
    with torch.no_grad():
        one, two = model.magnitudes(magnitudes), model.magnitudes(louder)
    assert torch.allclose(two[..., 150, :], 2 * one[..., 150, :])
    assert one[..., 150, :].max() > 0
    assert len(small(bandwidth_hz=1e6).networks["vocals"].input_mean) == 257  # type: ignore[arg-type]


def test_mono_models_average_channels_and_give_the_same_estimate_for_all() -> None:
    model = small(mono=True)
    magnitudes = torch.rand(1, 2, 257, 20)
    with torch.no_grad():
        estimates = model.magnitudes(magnitudes)
        assert torch.equal(estimates, model.magnitudes(magnitudes.flip(1)))
    assert torch.equal(estimates[:, :, 0], estimates[:, :, 1])


def test_recipes_are_the_published_ones() -> None:
    """The package's training script, and Goel et al.'s Table 9."""
    stoter, goel = settings_of("open_unmix"), settings_of("open_unmix/goel")
    for recipe, name, n_fft, batch, epochs in (
        (stoter, "torch.optim.Adam", 4096, 16, 1000),
        (goel, "torch.optim.RMSprop", 2048, 8, 50),
    ):
        model = recipe["model"]
        optimizer = {"class_path": name, "init_args": {"lr": 1e-3, "weight_decay": 1e-5}}
        assert model["optimizer"] == optimizer
        assert (model["n_fft"], model["hop_length"], model["bandwidth_hz"]) == (n_fft, 1024, 16000)
        assert recipe["data"]["batch_size"] == batch
        assert recipe["trainer"]["max_epochs"] == epochs
    plateau = stoter["model"]["lr_scheduler"]["init_args"]
    assert (plateau["factor"], plateau["patience"], plateau["cooldown"]) == (0.3, 80, 10)
    assert stoter["data"]["segment_seconds"] == 6
    (stopping,) = stoter["trainer"]["callbacks+"]
    assert stopping["init_args"] == {"monitor": "val/loss", "patience": 140}
    sizes = {name: goel["model"][name] for name in ("hidden_size", "n_fft", "hop_length", "mono")}
    network = OpenUnmix(FOUR, **sizes).networks["vocals"].state_dict()
    assert network["fc1.weight"].shape == (512, 744)
    assert network["lstm.weight_hh_l0"].shape == (4 * 256, 256)


@pytest.mark.parametrize("mono", [False, True])
def test_loss_is_the_sum_of_squared_errors_of_sources(mono: bool) -> None:
    model = small(mono=mono)
    targets = torch.randn(2, 4, 2, 10_000) * 0.1
    batch = Batch(targets.sum(1), targets)
    losses = model.loss(batch)
    mixture, true = (model.whole_frames(waveform).abs() for waveform in batch)
    if mono:
        mixture, true = mixture.mean(1, keepdim=True), true.mean(2, keepdim=True)
    for number, name in enumerate(FOUR):
        error = (model.networks[name](mixture) - true[:, number]).square().mean()
        assert torch.allclose(losses[f"loss/{name}"], error)
    assert torch.allclose(losses["loss"], sum(losses[f"loss/{name}"] for name in FOUR))  # type: ignore[arg-type]


def expected_statistics(tracks: list[np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    """Mean and deviation over all frames in double precision."""
    frames = []
    window = np.hanning(513)[:-1]
    for audio in tracks:  # (T, C)
        starts = range(0, len(audio) - 512 + 1, 256)
        cut = np.stack([audio[start : start + 512] for start in starts])  # (N, 512, C)
        frames.append(np.abs(np.fft.rfft(cut * window[:, None], axis=1)).mean(2))
    all_frames = np.concatenate(frames)
    deviation = all_frames.std(0)
    return all_frames.mean(0), np.maximum(deviation, 1e-4 * deviation.max())


@pytest.mark.slow
def test_input_statistics_equal_their_definition(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.base.standardised_input._FRAMES_AT_ONCE", 50)
    model, data = small(), data_of(musdb_root)
    fit(model, data)
    paths = [track.mixture for track in data.train_tracks]
    mean, deviation = expected_statistics([soundfile.read(str(path))[0] for path in paths])
    measured = input_statistics(model, data, model.normalised_magnitudes)
    assert np.allclose(measured[0], mean, rtol=1e-4, atol=1e-5)
    assert np.allclose(measured[1], deviation, rtol=1e-4, atol=1e-5)
    assert measured[1].min() >= 0.99e-4 * measured[1].max()


@pytest.mark.slow
def test_statistics_are_measured_once_before_training(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    assert not model.statistics_known
    trainer = fit(model, data_of(musdb_root))
    data = trainer.datamodule  # type: ignore[attr-defined]
    mean, deviation = input_statistics(model, data, model.normalised_magnitudes)
    for network in model.networks.values():
        state = network.state_dict()
        assert torch.equal(state["input_mean"], -mean[:186])
        assert torch.equal(state["input_scale"], 1 / deviation[:186])
    trainer.save_checkpoint(tmp_path / "some.ckpt")

    def never(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr("lightning_modules.base.standardised_input.input_statistics", never)
    again = small(optimizer=torch.optim.SGD)
    again.load_state_dict(load_separator(tmp_path / "some.ckpt").state_dict())
    assert again.statistics_known
    fit(again, data_of(musdb_root))


@pytest.mark.slow
def test_statistics_of_silent_bins_and_short_tracks(tmp_path: Path) -> None:
    """A bin that is always silent has the smallest allowed deviation."""
    for number in range(3):
        write_track(tmp_path / "train" / f"T - {number}", seconds=0.5, seed=number)
    for stem in (*STEMS, "mixture"):  # one track is silent, one shorter than a frame
        soundfile.write(tmp_path / "train/T - 1" / f"{stem}.wav", np.zeros((12000, 2)), 44100)
        soundfile.write(tmp_path / "train/T - 2" / f"{stem}.wav", np.full((100, 2), 0.1), 44100)
    model, data = small(), data_of(tmp_path, validation_tracks=["T - 0"], batch_size=1)
    fit(model, data)
    for network in model.networks.values():
        for parameter in network.parameters():
            assert parameter.isfinite().all()


def test_silent_data_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        write_track(tmp_path / "train" / f"T - {number}", seconds=0.5)
        for stem in (*STEMS, "mixture"):
            path = tmp_path / "train" / f"T - {number}" / f"{stem}.wav"
            soundfile.write(path, np.zeros((12000, 2)), 44100, subtype="PCM_16")
    with pytest.raises(DataError, match=r"all training tracks .1. are silent.*root"):
        fit(small(), data_of(tmp_path, batch_size=1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "holds NaN or infinity, first at"),
        (np.inf, "holds NaN or infinity, first at"),
        (3e38, "the mixture contains samples .* out of range.*doctor"),
    ],
)
def test_errors_name_mixtures_that_are_not_finite(tmp_path: Path, value: float, words: str) -> None:
    for number in range(3):
        write_track(tmp_path / "train" / f"T - {number}", seconds=0.5)
    path = tmp_path / "train/T - 1/mixture.wav"
    audio = soundfile.read(path)[0]
    audio[7000] = value
    soundfile.write(path, audio, 44100, subtype="FLOAT")
    with pytest.raises(DataError, match=rf"T - 1.mixture\.wav: {words}"):
        fit(small(), data_of(tmp_path, validation_tracks=["T - 0"], batch_size=1))


@pytest.mark.slow
def test_ranks_share_tracks_and_agree_on_statistics(musdb_root: Path, tmp_path: Path) -> None:
    """Two processes measure the statistics of one."""
    alone = small(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    fit(alone, data_of(musdb_root))
    together = small(optimizer=_no_step)
    trainer = fit(together, data_of(musdb_root), devices=2, strategy=several_ranks())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    state = load_separator(tmp_path / "two.ckpt").state_dict()
    for name in ("input_mean", "input_scale"):
        key = f"networks.vocals.{name}"
        assert torch.allclose(state[key], alone.state_dict()[key], rtol=1e-6)


def _no_step(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)
