"""The spectrogram-channels U-Net: shapes, counts, alignment, loss and balanced weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures.unet import UNet, UNetwork, UpBlock, balanced_weights
from lightning_modules.configuration.build import build_model
from tests.helpers.tracks import write_track

FOUR = ["vocals", "drums", "bass", "other"]
TWO = ["vocals", "accompaniment"]


def small(sources: list[str] = FOUR, **arguments: Any) -> UNet:
    torch.manual_seed(0)
    settings = {"channels": (4, 8), "segment_seconds": 0.5, **arguments}
    return UNet(sources, **settings).eval()


def batch(model: UNet, samples: int = 20_000) -> Batch:
    targets = torch.randn(2, len(model.sources), model.audio_channels, samples) * 0.1
    return Batch(targets.sum(1), targets)


def test_spectrogram_of_two_seconds_has_1025_bins_and_173_frames() -> None:
    model = small(["vocals", "accompaniment"], audio_channels=1)
    spectrum = model.stft(torch.randn(1, 1, 88_200))
    assert spectrum.shape == (1, 1, 1025, 173)
    assert model.magnitudes(spectrum.abs()).shape == (1, 2, 1, 1025, 173)


@pytest.mark.slow
def test_output_shapes_of_blocks_are_the_papers() -> None:
    """Padded to 1040 x 176, halved four times to 65 x 11 at the centre with 512 channels."""
    network = UNetwork(1, 2, (32, 64, 128, 256), 0.0).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    parts = [*network.encoder, network.centre, *network.decoder]
    for number, part in enumerate(parts):
        part.register_forward_hook(
            lambda _m, _i, out, key=str(number): shapes.__setitem__(key, tuple(out.shape[1:]))
        )
    with torch.no_grad():
        assert network(torch.rand(1, 1, 1025, 173)).shape == (1, 2, 1025, 173)
    assert list(shapes.values()) == [
        (32, 1040, 176),
        (64, 520, 88),
        (128, 260, 44),
        (256, 130, 22),
        (512, 65, 11),
        (256, 130, 22),
        (128, 260, 44),
        (64, 520, 88),
        (32, 1040, 176),
    ]


def test_parameter_count_equals_its_formula() -> None:
    def block(inputs: int, outputs: int) -> int:
        first, second = (inputs * 9 + 1) * outputs, (outputs * 9 + 1) * outputs
        return first + second + 2 * 2 * outputs  # two batch norms of weight and bias

    def up(inputs: int, outputs: int) -> int:
        return (inputs * 4 + 1 * 1) * outputs + 2 * outputs + block(2 * outputs, outputs)

    expected = block(1, 32) + block(32, 64) + block(64, 128) + block(128, 256) + block(256, 512)
    expected += up(512, 256) + up(256, 128) + up(128, 64) + up(64, 32)
    expected += (32 + 1) * 4
    network = UNetwork(1, 4, (32, 64, 128, 256), 0.4)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 7_766_468


def test_network_of_pourtorkans_program() -> None:
    model = build_model("unet/pourtorkan").model
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_420_098
    assert model(torch.zeros(1, 1, 5000)).shape == (1, 2, 1, 5000)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_upsampling_doubles_the_size(size: int) -> None:
    images = UpBlock(4, 2, 0.0, size)(torch.rand(1, 4, 3, 5), torch.rand(1, 2, 6, 10))
    assert images.shape == (1, 2, 6, 10)


def test_relu_comes_before_batch_norm_and_dropout_after() -> None:
    network = UNetwork(1, 2, (4, 8), 0.3)
    names = [type(layer).__name__ for layer in network.encoder[0].children()]
    assert names == ["Conv2d", "ReLU", "BatchNorm2d"] * 2
    up = [type(layer).__name__ for layer in network.decoder[0].up.children()]  # type: ignore[union-attr]
    assert up == ["ConvTranspose2d", "ReLU", "BatchNorm2d", "Dropout"]
    assert [type(layer).__name__ for layer in network.output] == ["Conv2d", "ReLU"]


@pytest.mark.parametrize("mask", ["ratio", "binary"])
def test_masked_estimates_add_up_to_the_mixture(mask: str) -> None:
    model = small(mask=mask)
    mixture = torch.randn(2, 2, 30_001) * 0.3
    with torch.no_grad():
        error = model(mixture).sum(1) - mixture
    assert error.abs().max() < 1e-6


class Identity(torch.nn.Module):
    """Returns its input as the first source, and zeros as the others."""

    def __init__(self, sources: int) -> None:
        super().__init__()
        self.sources = sources

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, *[torch.zeros_like(image)] * (self.sources - 1)], 1)


@pytest.mark.parametrize("scale", ["linear", "db"])
@pytest.mark.parametrize("mask", ["none", "ratio", "binary"])
def test_identity_network_returns_the_mixture(mask: str, scale: str) -> None:
    model = small(mask=mask, magnitude_scale=scale)
    model.network = Identity(4)  # type: ignore[assignment]
    mixture = torch.randn(1, 2, 20_000) * 0.3
    estimates = model(mixture)
    assert torch.allclose(estimates[:, 0], mixture, atol=1e-4 if scale == "db" else 1e-5)
    assert estimates[:, 1:].abs().max() < 1e-6


def test_padding_does_not_shift_frames() -> None:
    network = UNetwork(1, 1, (4, 8), 0.0).eval()
    seen: list[Tensor] = []
    network.encoder[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = torch.zeros(1, 1, 1025, 173)
    image[0, 0, 7, 11] = 1.0
    network(image)
    assert seen[0].shape[-2:] == (1028, 176)
    assert seen[0].nonzero().tolist() == [[0, 0, 7, 11]]


def test_decibel_scale_is_zero_for_silence_and_invertible() -> None:
    model = small(magnitude_scale="db")
    full = model.transform.window.sum() / 2
    magnitudes = full * torch.tensor([0.0, 1e-4, 1e-2, 1.0])
    decibels = model.to_scale(magnitudes)
    assert decibels[0] == 0
    assert abs(decibels[3] - 80) < 1e-3  # full scale lies 80 dB above the floor
    assert torch.allclose(model.from_scale(decibels), magnitudes, rtol=1e-4)


def test_peak_of_a_full_scale_sine_is_half_the_windows_sum() -> None:
    model = small(audio_channels=1)
    sine = torch.sin(2 * torch.pi * 100 / 2048 * torch.arange(20_000))
    peak = model.stft(sine[None, None]).abs()[0, 0, :, 10].max()
    assert abs(peak - model.transform.window.sum() / 2) < 0.1


@pytest.mark.parametrize("alpha", [1.0, 0.0, 0.5, 0.707])
def test_loss_equals_equation_12(alpha: float) -> None:
    model = small(TWO, alphas={"vocals": alpha, "accompaniment": 1 - alpha})
    examples = batch(model)
    losses = model.loss(examples)
    estimates = model.magnitudes(model.stft(examples.mixture).abs())
    distance = (estimates - model.stft(examples.targets).abs()).abs()
    expected = alpha * distance[:, 0].mean() + (1 - alpha) * distance[:, 1].mean()
    assert torch.allclose(losses["loss"], expected)
    assert torch.allclose(losses["loss/vocals"], distance[:, 0].mean())


def test_alphas_are_assigned_by_name() -> None:
    model = small(TWO, alphas={"accompaniment": 0.25, "vocals": 0.75})
    assert model.source_weights.tolist() == [0.75, 0.25]


def test_any_number_of_sources() -> None:
    for sources in (["vocals"], ["vocals_other", "drums_bass"]):
        model = small(sources)
        assert model(torch.randn(1, 2, 5000)).shape == (1, len(sources), 2, 5000)
        assert model.loss(batch(model))["loss"].isfinite()


def test_stft_is_float32_under_autocast() -> None:
    model = small(mask="ratio")
    mixture = torch.randn(1, 2, 20_000) * 0.3
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.stft(mixture).dtype == torch.complex64
        estimates = model(mixture)
    assert (estimates.sum(1) - mixture).abs().max() < 1e-6


@pytest.mark.slow
def test_balanced_alphas_are_inverse_to_the_sources_loudness(musdb_root: Path) -> None:
    """Pourtorkan 2022, footnote 1: alpha ||vocals|| = (1 - alpha) ||accompaniment||."""
    sources = {"vocals": ["vocals"], "accompaniment": ["drums", "bass", "other"]}
    data = MUSDBDataModule(str(musdb_root), sources=sources, segment_seconds=0.5, batch_size=1)
    data.setup("fit")
    model = small(TWO, alphas="balanced")
    weights = balanced_weights(model, data, crops=64)
    assert abs(weights.sum() - 1) < 1e-6
    norms = torch.zeros(2)
    for track in data.train_tracks:
        for start in range(0, track.samples - data.segment_samples, data.segment_samples // 4):
            targets = data.grouping.read(track, start, data.segment_samples).targets
            norms += model.stft(targets).abs().flatten(1).norm(dim=1)
    assert (weights * norms)[0] == pytest.approx((weights * norms)[1].item(), rel=0.1)
    assert weights[0] > 0.5, "the vocals are the quieter ones"


def test_balanced_alphas_refuse_silent_sources(tmp_path: Path) -> None:
    for name in ("A - 1", "B - 2"):
        write_track(tmp_path / "train" / name)
        audio, rate = soundfile.read(tmp_path / "train" / name / "vocals.wav")
        soundfile.write(tmp_path / "train" / name / "vocals.wav", audio * 0, rate)
    data = MUSDBDataModule(str(tmp_path), segment_seconds=0.5, batch_size=1)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"vocals is silent.*by name"):
        balanced_weights(small(), data, crops=4)


@pytest.mark.parametrize("hop_length", [128, 256, 384])
def test_masked_estimates_of_any_hop_add_up_to_the_end_of_the_mixture(hop_length: int) -> None:
    """Also where a single window covers the last samples."""
    model = small(mask="ratio", n_fft=512, hop_length=hop_length)
    for samples in (1, hop_length - 1, 4 * hop_length - 1, 4 * hop_length, 4 * hop_length + 1):
        mixture = torch.randn(1, 2, samples) * 0.3
        with torch.no_grad():
            estimates = model(mixture)
        assert (estimates.sum(1) - mixture).abs().max() < 1e-6
        assert estimates.abs().max() < 10
