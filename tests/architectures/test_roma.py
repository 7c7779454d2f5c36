"""Roma et al.'s models: the paper's parameter counts and formulas, and its null test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from pytorch_lightning import Trainer
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures import roma
from lightning_modules.architectures.roma import Roma, RomaNetwork
from lightning_modules.interop import export
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]
# The paper's three models with small sizes.
CNN1: dict[str, Any] = {"filters": [2, 3], "pools": [[2, 4], [2, 2]]}
MODELS: dict[str, dict[str, Any]] = {
    "cnn1": CNN1,
    "cnn2": {**CNN1, "target": "dominant", "mask": "binary"},
    "cnn2 probabilities": {**CNN1, "target": "dominant"},
    "dnn": {"context_frames": 5, "filters": [], "pools": [], "normalize": True},
}


def small(name: str = "cnn1", sources: list[str] = FOUR, **arguments: Any) -> Roma:
    torch.manual_seed(0)
    settings = {**Roma.tiny, "segment_seconds": 0.5, **MODELS[name], **arguments}
    return Roma(sources, **settings).eval()


def config(name: str) -> dict[str, Any]:
    """Arguments of a config's model."""
    arguments = settings_of(name)["model"]
    return {key: arguments[key] for key in arguments if key not in ("optimizer", "chunk_seconds")}


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


@pytest.mark.slow
def test_parameter_counts_are_about_34_and_38_million() -> None:
    for name in ("roma", "roma/cnn2"):
        count = parameters(Roma(FOUR, **config(name)))
        assert count == 33_667_864
        assert round(count / 1e6) == 34
    count = parameters(Roma(FOUR, **config("roma/dnn")))
    assert count == 5125 * 4100 + 4100 + 4100 * 4100 + 4100 == 37_830_700
    assert round(count / 1e6) == 38


@pytest.mark.slow
def test_exported_networks_process_any_number_of_frames() -> None:
    network = export.NetworkAlone(small())
    any_size = ({0: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    example = torch.rand(2, 1, 513, 20)
    program = torch.export.export(network, (example,), dynamic_shapes=any_size).module()
    more = torch.rand(3, 1, 513, roma.FRAMES_AT_ONCE + 1)
    assert torch.allclose(program(more), network(more), atol=1e-6)


def test_layers_and_their_sizes_are_the_papers() -> None:
    network = RomaNetwork(11, 1025, 4, [32, 64, 64], [[2, 4], [2, 2], [2, 2]], [4100]).eval()
    assert [type(layer) for layer in network] == [
        *[nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d] * 3,
        nn.Flatten, nn.Linear, nn.Sigmoid, nn.Linear, nn.Unflatten,
    ]  # fmt: skip
    sizes: list[tuple[int, ...]] = []
    for layer in network:
        layer.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    assert network(torch.rand(1, 1, 11, 1025)).shape == (1, 4, 1025)
    assert sizes[:1] + sizes[3:12:4] == [(32, 11, 1025), (32, 5, 256), (64, 2, 128), (64, 1, 64)]
    assert sizes[12:14] == [(4096,), (4100,)]


@pytest.mark.parametrize("name", MODELS)
def test_masks_equal_those_of_single_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roma, "FRAMES_AT_ONCE", 7)
    model = small(name)
    mixture = torch.rand(2, 1, 513, 23)
    shares = model.magnitudes(mixture)
    assert shares.shape == (2, 4, 1, 513, 23)
    half = model.context_frames // 2
    padded = nn.functional.pad(model.low_band(mixture), (half, half))
    for number in range(23):
        window = padded[..., number : number + 2 * half + 1].transpose(-1, -2)  # (B, 1, K, F)
        outputs = model.network(window)
        soft = outputs.sigmoid() if model.target == "soft" else outputs.softmax(1)
        assert torch.allclose(shares[:, :, 0, :257, number], soft, atol=1e-5)


def test_frames_are_processed_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roma, "FRAMES_AT_ONCE", 20)
    model = small()
    sizes: list[int] = []
    model.network.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    model.magnitudes(torch.rand(2, 1, 513, 23))
    assert sizes == [20, 20, 6]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "sample_rate"), [(1, 22_050), (2, 44_100)])
def test_null_test(name: str, channels: int, sample_rate: int) -> None:
    """Sources add up to the mixture, in mono at 22,050 Hz, as in the paper, and in stereo."""
    model = small(name, audio_channels=channels, sample_rate=sample_rate)
    for samples in (1, 1000, 30_001):  # shorter and longer than the context
        mixture = torch.randn(2, channels, samples) * 0.3
        with torch.no_grad():
            estimates = model(mixture)
        assert estimates.shape == (2, 4, channels, samples)
        assert (estimates.sum(1) - mixture).abs().max() < 1e-6


def test_null_test_of_a_track_longer_than_a_chunk() -> None:
    mixture = torch.randn(2, 100_001) * 0.3
    estimates = small(chunk_seconds=0.7).separate(mixture)
    assert (estimates.sum(0) - mixture).abs().max() < 2e-6


@pytest.mark.parametrize(("given", "named"), [(None, "other"), ("drums", "drums")])
def test_band_above_11_025_hz_is_assigned_to_one_source(given: str | None, named: str) -> None:
    model = small(high_band_source=given, n_fft=2048)
    time = torch.arange(44_100) / 44_100
    low, high = (0.3 * torch.sin(2 * torch.pi * hertz * time) for hertz in (5000.0, 15_000.0))
    left, right = low + high, low - 0.5 * high
    with torch.no_grad():
        estimates = model(torch.stack([left, right])[None])[0]
    spectra = torch.fft.rfft(estimates[..., 4096:-4096] * torch.hann_window(44_100 - 8192))
    middle = spectra.shape[-1] * 15_000 // 22_050
    near = spectra[..., middle - 50 : middle + 50].abs().sum(-1)  # (S, C)
    number = FOUR.index(named)
    others = [index for index in range(4) if index != number]
    assert (near[others] < 1e-4 * near[number]).all()
    assert near[number, 1] == pytest.approx(0.5 * near[number, 0].item(), rel=1e-3)
    # Below, all sources have a share: sigmoids of an untrained network are near one half.
    middle = spectra.shape[-1] * 5000 // 22_050
    near = spectra[..., middle - 50 : middle + 50].abs().sum(-1)
    assert (near > 0.1 * near.sum(0)).all()


def test_masks_of_the_channels_mean_are_applied_to_each_channel() -> None:
    model = small()
    mixture = torch.randn(1, 2, 20_000) * 0.3
    estimates = model(mixture)
    spectrum = model.stft(mixture)
    shares = model.magnitudes(model.stft(mixture.mean(1, keepdim=True)).abs())
    shares = shares / shares.sum(1, keepdim=True)
    expected = model.istft(shares * spectrum[:, None], 20_000)
    assert torch.allclose(estimates, expected, atol=1e-5)
    assert torch.allclose(shares[:, :, :, 257:].flatten(2).mean(2), torch.tensor([0, 0, 0, 1.0]))


def test_network_input_is_the_same_at_both_sample_rates() -> None:
    """A window twice as long has the same bins and frames as after downsampling."""
    time = torch.arange(30_000) / 44_100
    tones = [
        torch.sin(2 * torch.pi * hertz * time + hertz) for hertz in (100.0, 440.0, 3000.0, 9000.0)
    ]
    mixture = sum(tones, torch.zeros(30_000))[None] * 0.1
    halved = torchaudio.functional.resample(mixture, 44_100, 22_050, lowpass_filter_width=64)
    model = small(n_fft=2048, hop_length=256, audio_channels=1)
    slow = small(n_fft=2048, hop_length=256, audio_channels=1, sample_rate=22_050)
    inputs = model.low_band(model.stft(mixture).abs())[..., 10:40]
    expected = slow.low_band(slow.stft(halved).abs())[..., 10:40]
    assert inputs.shape[-2:] == (1025, 30)
    assert (inputs - expected).abs().max() < 1e-3 * expected.max()


def test_null_test_with_channels_in_antiphase() -> None:
    """The channels' mean is silent, the channels are not."""
    mixture = torch.randn(1, 1, 20_000) * 0.3
    mixture = torch.cat([mixture, -mixture], 1)
    for name in MODELS:
        assert (small(name)(mixture).sum(1) - mixture).abs().max() < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_nan_sample_corrupts_only_the_frames_that_contain_it(name: str) -> None:
    model = small(name)
    mixture = torch.randn(1, 2, 60_000) * 0.3
    mixture[..., 30_000] = float("nan")
    with torch.no_grad():
        estimates = model(mixture)
    corrupted = ~estimates.isfinite().all(1).all(1).flatten()
    assert corrupted[30_000]
    assert (
        30_000 - 2 * 1024
        < corrupted.nonzero().min()
        <= corrupted.nonzero().max()
        < 30_000 + 2 * 1024
    )
    assert ((estimates.sum(1) - mixture).abs().amax(1).flatten()[~corrupted] < 1e-6).all()


def truth(model: Roma, batch: Batch) -> tuple[Tensor, Tensor]:
    """The network's outputs and the targets' magnitudes, (B, S, F, n) both."""
    half = model.context_frames // 2
    mixture = model.low_band(model.whole_frames(batch.mixture).mean(1).abs())
    targets = model.low_band(model.whole_frames(batch.targets).mean(2).abs())
    frames = range(half, mixture.shape[-1] - half)
    outputs = [
        model.network(mixture[..., n - half : n + half + 1].transpose(1, 2)[:, None])
        for n in frames
    ]
    return torch.stack(outputs, -1), targets[..., half : half + len(frames)]


def test_soft_loss_equals_equations_8_to_10() -> None:
    model = small("cnn1")
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    batch = Batch(targets.sum(1), targets)
    outputs, magnitudes = truth(model, batch)
    ideal = magnitudes / magnitudes.sum(1, keepdim=True)
    estimate = outputs.exp() / (1 + outputs.exp())
    expected = (ideal - estimate).square().mean()
    assert torch.allclose(model.loss(batch)["loss"], expected, rtol=1e-4)


def test_dominant_loss_equals_equations_4_to_7() -> None:
    model = small("cnn2")
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    batch = Batch(targets.sum(1), targets)
    outputs, magnitudes = truth(model, batch)
    probabilities = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    dominant = probabilities.gather(1, magnitudes.argmax(1, keepdim=True))
    expected = -dominant.log().mean()
    assert torch.allclose(model.loss(batch)["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_silent_bins_are_excluded_from_the_loss(name: str) -> None:
    model = small(name)
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    active = Batch(targets.sum(1), targets)
    silent = Batch(torch.zeros(2, 2, 9000), torch.zeros(2, 4, 2, 9000))
    both = Batch(
        torch.cat([active.mixture, silent.mixture]), torch.cat([active.targets, silent.targets])
    )
    assert torch.allclose(model.loss(both)["loss"], model.loss(active)["loss"], rtol=1e-5)
    loss = model.loss(silent)["loss"]
    loss.backward()
    assert loss == 0
    for weights in model.parameters():
        assert weights.grad is not None
        assert not weights.grad.any()


@pytest.mark.parametrize(("name", "frames"), [("roma", 11), ("roma/dnn", 5)])
def test_training_crop_is_one_frame_with_its_context(name: str, frames: int) -> None:
    samples = round(settings_of(name)["data"]["segment_seconds"] * 44100)
    model = Roma(FOUR, **{**config(name), "hidden": [4]})
    assert (model.n_fft, model.hop_length, model.bins) == (4096, 512, 1025)
    assert samples == 4096 + 512 * (frames - 1)
    inputs = model.low_band(model.whole_frames(torch.zeros(1, samples)).abs())
    assert inputs.shape == (1, 1025, frames)
    assert model.in_context(inputs).shape == (1, 1, frames, 1025)


@pytest.mark.slow
def test_input_of_dnn_is_standardised_with_statistics_measured_once(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("dnn", optimizer=torch.optim.SGD)
    standardisation = model.standardisation
    assert standardisation is not None
    assert not standardisation.measured
    data = MUSDBDataModule(str(musdb_root), segment_seconds=0.5, batch_size=4, num_workers=0)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_steps": 1,
        "limit_val_batches": 0,
        "logger": False,
    }
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_checkpointing": False}
    Trainer(**settings, **quiet).fit(model, data)
    assert standardisation.measured
    read = torch.cat(
        [
            model.low_band(model.whole_frames(torch.from_numpy(track.read_mixture())).mean(0).abs())
            for track in data.train_tracks
        ],
        -1,
    )
    assert torch.allclose(standardisation.mean, read.mean(1), rtol=1e-3, atol=1e-5)
    loud = read.std(-1) > 0.1 * read.std(-1).max()
    assert loud.sum() > 5
    standard = standardisation(read)[loud]
    assert standard.mean(-1).abs().max() < 0.01
    assert (standard.std(-1) - 1).abs().max() < 0.01

    def never(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr("lightning_modules.architectures.roma.input_statistics", never)
    again = small("dnn", optimizer=torch.optim.SGD)
    again.load_state_dict(model.state_dict())
    Trainer(**settings, **quiet).fit(again, data)


def test_two_sources_and_a_network_without_hidden_layer() -> None:
    model = small(sources=["vocals", "accompaniment"], hidden=[])
    assert model.high_band == 1
    assert model(torch.randn(1, 2, 5000)).shape == (1, 2, 2, 5000)
