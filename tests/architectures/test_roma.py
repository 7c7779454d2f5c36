"""Masks from frames in context: the paper's counts and formulas, and its null test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
import yaml
from pytorch_lightning import Trainer
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.architectures import roma
from lightning_modules.architectures.roma import Roma, RomaNetwork
from lightning_modules.configuration.files import CONFIGS
from lightning_modules.interop import export

FOUR = ["vocals", "drums", "bass", "other"]
# The three models of the paper, made small where its figures play no part.
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


def config(*names: str) -> dict[str, Any]:
    """Arguments of the model in configs, the later ones on top."""
    merged: dict[str, Any] = {}
    for name in names:
        merged |= yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]
    for name in ("optimizer", "chunk_seconds"):
        merged.pop(name)
    return merged


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


# ------------------------------------------------------------------ network


def test_parameters_are_about_34_and_38_million() -> None:
    for names in (["roma"], ["roma", "roma/cnn2"]):
        count = parameters(Roma(FOUR, **config(*names)))
        assert count == 33_667_864
        assert round(count / 1e6) == 34
    count = parameters(Roma(FOUR, **config("roma", "roma/dnn")))
    assert count == 5125 * 4100 + 4100 + 4100 * 4100 + 4100 == 37_830_700
    assert round(count / 1e6) == 38


def test_exported_networks_take_more_frames_than_are_read_at_once() -> None:
    network = export.NetworkAlone(small())
    any_size = ({0: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    example = torch.rand(2, 1, 513, 20)
    program = torch.export.export(network, (example,), dynamic_shapes=any_size).module()
    more = torch.rand(3, 1, 513, roma._FRAMES_AT_ONCE + 1)
    assert torch.allclose(program(more), network(more), atol=1e-6)


def test_features_are_4096_and_layers_stand_in_the_papers_order() -> None:
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
@pytest.mark.parametrize("at_once", [1, 7, 256])
def test_a_whole_track_is_masked_as_frame_by_frame(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roma, "_FRAMES_AT_ONCE", at_once)
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


def test_frames_go_through_the_network_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roma, "_FRAMES_AT_ONCE", 20)
    model = small()
    sizes: list[int] = []
    model.network.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    model.magnitudes(torch.rand(2, 1, 513, 23))
    assert sizes == [20, 20, 6]


# ------------------------------------------------------------------ separation


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("samples", [1, 1000, 30_001])
def test_null_test_on_the_mixture_that_the_model_works_on(name: str, samples: int) -> None:
    """Mono at 22,050 Hz, as in the paper; also where there is less than the context."""
    model = small(name, audio_channels=1, sample_rate=22050)
    mixture = torch.randn(2, 1, samples) * 0.3
    with torch.no_grad():
        estimates = model(mixture)
    assert estimates.shape == (2, 4, 1, samples)
    assert (estimates.sum(1) - mixture).abs().max() < 1e-6
    assert model(torch.zeros(1, 1, samples)).abs().max() == 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("samples", [1, 1000, 30_001])
def test_null_test_in_stereo_at_44_100_hz(name: str, samples: int) -> None:
    model = small(name)
    mixture = torch.randn(2, 2, samples) * 0.3
    with torch.no_grad():
        estimates = model(mixture)
    assert estimates.shape == (2, 4, 2, samples)
    assert (estimates.sum(1) - mixture).abs().max() < 1e-6


def test_null_test_of_a_whole_track_in_stereo() -> None:
    mixture = torch.randn(2, 100_001) * 0.3
    estimates = small(chunk_seconds=0.7).separate(mixture)
    assert (estimates.sum(0) - mixture).abs().max() < 2e-6


@pytest.mark.parametrize(("given", "named"), [(None, "other"), ("drums", "drums")])
def test_the_band_above_11_025_hz_goes_to_the_named_source(given: str | None, named: str) -> None:
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
    # Below, all have a share of it: sigmoids of an untrained network are near one half.
    middle = spectra.shape[-1] * 5000 // 22_050
    near = spectra[..., middle - 50 : middle + 50].abs().sum(-1)
    assert (near > 0.1 * near.sum(0)).all()


def test_masks_see_the_channels_mean_and_apply_to_each_channel() -> None:
    model = small()
    mixture = torch.randn(1, 2, 20_000) * 0.3
    estimates = model(mixture)
    spectrum = model.stft(mixture)
    shares = model.magnitudes(model.stft(mixture.mean(1, keepdim=True)).abs())
    shares = shares / shares.sum(1, keepdim=True)
    expected = model.istft(shares * spectrum[:, None], 20_000)
    assert torch.allclose(estimates, expected, atol=1e-5)
    assert torch.allclose(shares[:, :, :, 257:].flatten(2).mean(2), torch.tensor([0, 0, 0, 1.0]))


def test_the_network_reads_the_same_at_either_rate() -> None:
    """A window twice as long has the bins and frames of one after down-sampling."""
    time = torch.arange(30_000) / 44_100
    tones = [
        torch.sin(2 * torch.pi * hertz * time + hertz) for hertz in (100.0, 440.0, 3000.0, 9000.0)
    ]
    mixture = sum(tones, torch.zeros(30_000))[None] * 0.1
    halved = torchaudio.functional.resample(mixture, 44_100, 22_050, lowpass_filter_width=64)
    model = small(n_fft=2048, hop_length=256, audio_channels=1)
    slow = small(n_fft=2048, hop_length=256, audio_channels=1, sample_rate=22_050)
    read = model.low_band(model.stft(mixture).abs())[..., 10:40]
    wanted = slow.low_band(slow.stft(halved).abs())[..., 10:40]
    assert read.shape[-2:] == (1025, 30)
    assert (read - wanted).abs().max() < 1e-3 * wanted.max()


def test_a_channel_out_of_phase_is_masked_too() -> None:
    """The mean of the channels is silent, the channels are not."""
    mixture = torch.randn(1, 1, 20_000) * 0.3
    mixture = torch.cat([mixture, -mixture], 1)
    for name in MODELS:
        assert (small(name)(mixture).sum(1) - mixture).abs().max() < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_that_is_no_number_spoils_only_what_hears_it(name: str) -> None:
    model = small(name)
    mixture = torch.randn(1, 2, 60_000) * 0.3
    mixture[..., 30_000] = float("nan")
    with torch.no_grad():
        estimates = model(mixture)
    spoilt = ~estimates.isfinite().all(1).all(1).flatten()
    assert spoilt[30_000]
    assert 30_000 - 2 * 1024 < spoilt.nonzero().min() <= spoilt.nonzero().max() < 30_000 + 2 * 1024
    assert ((estimates.sum(1) - mixture).abs().amax(1).flatten()[~spoilt] < 1e-6).all()


# ------------------------------------------------------------------ training


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


def test_soft_loss_is_equations_8_to_10() -> None:
    model = small("cnn1")
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    batch = Batch(targets.sum(1), targets)
    outputs, magnitudes = truth(model, batch)
    ideal = magnitudes / magnitudes.sum(1, keepdim=True)
    estimate = outputs.exp() / (1 + outputs.exp())
    expected = (ideal - estimate).square().mean()
    assert torch.allclose(model.loss(batch)["loss"], expected, rtol=1e-4)


def test_dominant_loss_is_equations_4_to_7() -> None:
    model = small("cnn2")
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    batch = Batch(targets.sum(1), targets)
    outputs, magnitudes = truth(model, batch)
    probabilities = outputs.exp() / outputs.exp().sum(1, keepdim=True)
    of_the_dominant = probabilities.gather(1, magnitudes.argmax(1, keepdim=True))
    expected = -of_the_dominant.log().mean()
    assert torch.allclose(model.loss(batch)["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_silence_has_no_say_in_the_loss(name: str) -> None:
    model = small(name)
    targets = torch.randn(2, 4, 2, 9000) * 0.1
    sounding = Batch(targets.sum(1), targets)
    silent = Batch(torch.zeros(2, 2, 9000), torch.zeros(2, 4, 2, 9000))
    both = Batch(
        torch.cat([sounding.mixture, silent.mixture]), torch.cat([sounding.targets, silent.targets])
    )
    assert torch.allclose(model.loss(both)["loss"], model.loss(sounding)["loss"], rtol=1e-5)
    loss = model.loss(silent)["loss"]
    loss.backward()
    assert loss == 0
    for weights in model.parameters():
        assert weights.grad is not None
        assert not weights.grad.any()


@pytest.mark.parametrize("samples", [10, 1024, 3000])
def test_a_crop_shorter_than_the_context_is_learnt_from(samples: int) -> None:
    model = small()
    targets = torch.randn(2, 4, 2, samples) * 0.1
    loss = model.loss(Batch(targets.sum(1), targets))["loss"]
    assert loss > 0
    loss.backward()
    assert model.network[-2].weight.grad.any()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(("names", "frames"), [(("roma",), 11), (("roma", "roma/dnn"), 5)])
def test_a_crop_of_the_config_is_one_frame_in_its_context(
    names: tuple[str, ...], frames: int
) -> None:
    settings = yaml.safe_load((CONFIGS / f"{names[-1]}.yaml").read_text())
    samples = round(settings["data"]["init_args"]["segment_seconds"] * 44100)
    model = Roma(FOUR, **{**config(*names), "hidden": [4]})
    assert (model.n_fft, model.hop_length, model.bins) == (4096, 512, 1025)
    assert samples == 4096 + 512 * (frames - 1)
    read = model.low_band(model.whole_frames(torch.zeros(1, samples)).abs())
    assert read.shape == (1, 1025, frames)
    assert model.in_context(read).shape == (1, 1, frames, 1025)


# ------------------------------------------------------------------ statistics


def test_dnn_begins_with_an_input_of_mean_0_and_deviation_1_measured_once(
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


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sample_rate": 48_000}, r"sample_rate is 48000.*mask_rate 22050.*sample_rate=44100"),
        ({"target": "hard"}, "'hard'.*soft, dominant"),
        ({"mask": "none"}, "ratio or binary"),
        ({"context_frames": 10}, "context_frames is 10.*odd"),
        ({"filters": [2]}, r"filters are \[2\].*a pool"),
        ({"hidden": [0]}, r"hidden \[0\]"),
        ({"context_frames": 3}, r"leave nothing of 3 frames.*context_frames"),
        ({"high_band_source": "piano"}, "'piano'.*vocals, drums, bass, other"),
    ],
)
def test_faulty_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)


def test_any_grouping_and_networks_without_a_hidden_layer() -> None:
    model = small(sources=["vocals", "accompaniment"], hidden=[])
    assert model.high_band == 1
    assert model(torch.randn(1, 2, 5000)).shape == (1, 2, 2, 5000)
