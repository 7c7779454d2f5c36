"""Open-Unmix against the package ``openunmix``, on the same weights."""

from __future__ import annotations

from pathlib import Path

import openunmix.model
import openunmix.transforms
import openunmix.utils
import pytest
import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop.open_unmix import from_package
from tests.helpers.open_unmix_package import package_networks, write

SOURCES = ["vocals", "drums", "bass", "other"]


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal up to float32 rounding."""
    return bool((ours - theirs).abs().max() <= 2e-6 * theirs.abs().max())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("unidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_networks_agree(channels: int, unidirectional: bool, layers: int, tmp_path: Path) -> None:
    theirs = package_networks(channels=channels, unidirectional=unidirectional, nb_layers=layers)
    write(theirs, tmp_path, nhop=128)
    model = from_package(tmp_path)
    magnitudes = 10 * torch.rand(2, channels, 257, 30)
    magnitudes[..., :5] = 0
    with torch.no_grad():
        ours = model.magnitudes(magnitudes)
        for number, network in enumerate(theirs.values()):
            assert close(ours[:, number], network(magnitudes.clone()))


def test_networks_agree_in_training() -> None:
    """Statistics of batch norm and gradients, without dropout."""
    theirs = package_networks(["vocals"], nb_layers=1)["vocals"].train()
    model = OpenUnmix(["vocals"], hidden_size=16, layers=1, n_fft=512, hop_length=256).train()
    ours = model.networks["vocals"]
    ours.load_state_dict(theirs.state_dict())
    magnitudes = torch.rand(2, 2, 257, 30)
    for network in (ours, theirs):
        network(magnitudes.clone()).square().mean().backward()
    for (key, mine), (_, other) in zip(
        sorted(ours.named_parameters()), sorted(theirs.named_parameters()), strict=True
    ):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-6), key
    for key, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[key], rtol=1e-5, atol=1e-6), key


@pytest.mark.parametrize("samples", [512 + 20 * 256, 6000])
def test_losses_of_training_agree(samples: int) -> None:
    """Of the frames that are complete, as in the package's training script."""
    theirs = package_networks(["vocals", "drums"], nb_layers=1)
    model = OpenUnmix(["vocals", "drums"], hidden_size=16, layers=1, n_fft=512, hop_length=256)
    encoder, _ = openunmix.transforms.make_filterbanks(n_fft=512, n_hop=256)
    spectrogram = torch.nn.Sequential(encoder, openunmix.model.ComplexNorm(mono=False))
    targets = 0.1 * torch.randn(2, 2, 2, samples)
    for number, (name, network) in enumerate(theirs.items()):
        model.networks[name].load_state_dict(network.state_dict())
        estimate = network.train()(spectrogram(targets.sum(1)))
        expected = torch.nn.functional.mse_loss(estimate, spectrogram(targets[:, number].clone()))
        ours = model.train().loss(Batch(targets.sum(1), targets))[f"loss/{name}"]
        assert close(ours, expected)


def test_published_sizes_agree() -> None:
    for n_fft, lowest in ((4096, 1487), (2048, 744)):
        theirs = openunmix.model.OpenUnmix(n_fft // 2 + 1, 2, 512, 3, max_bin=lowest)
        model = OpenUnmix(["vocals"], n_fft=n_fft, hop_length=1024)
        shapes = {key: value.shape for key, value in model.networks["vocals"].state_dict().items()}
        assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
        assert openunmix.utils.bandwidth_to_max_bin(44100, n_fft, 16000) == lowest


# -------------------------------------------------------------------- files


def test_import_of_package_files(tmp_path: Path) -> None:
    """Sources in our order, unknown ones last; settings from weights and ``separator.json``."""
    networks = package_networks(["piano", *SOURCES[::-1]], nb_layers=2, unidirectional=True)
    write(networks, tmp_path, suffix="-0123abcd", nhop=64, sample_rate=22050.0, nb_channels=2)
    model = from_package(tmp_path)
    assert model.sources == [*SOURCES, "piano"]
    assert dict(model.hparams)["bandwidth_hz"] == 7968  # 185 x 22050 / 512 Hz, rounded up
    assert (model.n_fft, model.hop_length, model.sample_rate) == (512, 64, 22050)
    assert dict(model.hparams)["unidirectional"]
    assert dict(model.hparams)["layers"] == 2
    assert bool(model.statistics_known)
    assert not model.training


def test_published_settings_equal_those_of_the_config(tmp_path: Path) -> None:
    """A checkpoint converted from published weights fits the config's model."""
    network = openunmix.model.OpenUnmix(2049, 2, 512, 3, max_bin=1487)
    torch.save(network.state_dict(), tmp_path / "vocals-b62c91ce.pth")
    model = from_package(tmp_path)
    assert dict(model.hparams)["bandwidth_hz"] == 16000
    assert (model.n_fft, model.hop_length, model.sample_rate) == (4096, 1024, 44100)


def test_extra_keys_of_the_first_published_weights(tmp_path: Path) -> None:
    networks = package_networks(["vocals"])
    state = {**networks["vocals"].state_dict(), "stft.window": torch.ones(512)}
    torch.save({**state, "sample_rate": torch.tensor(44100)}, tmp_path / "vocals.pth")
    with pytest.warns(UserWarning, match=r"vocals.pth: ignored stft.window, sample_rate"):
        from_package(tmp_path)


def test_invalid_package_files_raise(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\.pth files are none: one per source"):
        from_package(tmp_path)
    networks = package_networks(["vocals", "bass"])
    write(networks, tmp_path)
    (tmp_path / "vocals-1234.pth").write_bytes((tmp_path / "vocals.pth").read_bytes())
    with pytest.raises(CheckpointError, match=r"vocals-1234\.pth, vocals\.pth: one per source"):
        from_package(tmp_path)
    (tmp_path / "vocals-1234.pth").unlink()
    complete = networks["bass"].state_dict()
    for state, words in (
        ({k: v for k, v in complete.items() if k != "bn2.bias"}, "bass.pth: has no bn2.bias"),
        ({**complete, "bn2.bias": torch.ones(3)}, "bass.pth: has a different size"),
        ({}, "bass.pth: has no fc1.weight, fc3.weight, input_mean, output_mean"),
        (3, "bass.pth: its weights are of type int"),
    ):
        torch.save(state, tmp_path / "bass.pth")
        with pytest.raises(CheckpointError, match=words):
            from_package(tmp_path)
    (tmp_path / "bass.pth").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"bass.pth: cannot be read.*download it again"):
        from_package(tmp_path)
    write(networks, tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "separator.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"separator.json: a JSON object was expected"):
            from_package(tmp_path)


# --------------------------------------------------------------- separation


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize(
    ("softmask", "residual", "channels"),
    [(False, False, 1), (True, True, 1), (False, True, 2), (True, False, 2)],
)
def test_separators_agree(
    iterations: int, softmask: bool, residual: bool, channels: int, tmp_path: Path
) -> None:
    """Waveform to waveform, up to float32 rounding, over several excerpts of the filter."""
    networks = package_networks(channels=channels)
    write(networks, tmp_path, nhop=128)
    model = from_package(tmp_path)
    model.mask = "ratio" if softmask else "none"
    model.wiener_iterations, model.wiener_residual = iterations, residual
    theirs = openunmix.model.Separator(
        networks, iterations, softmask, residual, n_fft=512, n_hop=128, nb_channels=channels
    ).eval()
    torch.manual_seed(1)
    mixture = 0.1 * torch.randn(2, 2, 50_001)
    if softmask or not residual:  # the package's residual treats silence as 1
        mixture[0, :, 20_000:25_000] = 0
    with torch.no_grad():
        assert close(model(mixture), theirs(mixture)[:, : len(SOURCES)])


def test_imported_separator_filters_once(tmp_path: Path) -> None:
    """As in ``openunmix.umxhq`` and its command line."""
    networks = package_networks()
    write(networks, tmp_path, nhop=128)
    theirs = openunmix.model.Separator(networks, 1, n_fft=512, n_hop=128).eval()
    mixture = 0.1 * torch.randn(1, 2, 20_000)
    with torch.no_grad():
        assert close(from_package(tmp_path)(mixture), theirs(mixture))
