"""Convolutional denoising autoencoders: the paper's numbers, segments, masks and losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.cdae import CDAE, CDAENetwork
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]
PAPER: dict[str, Any] = {
    "frames": 15,
    "filters": [12, 20, 30, 40, 30, 20, 12],
    "kernel_size": [3, 3],
    "pools": [[3, 5], [1, 5]],
}


def small(sources: list[str] = FOUR, **arguments: Any) -> CDAE:
    torch.manual_seed(0)
    settings = {**CDAE.tiny, "audio_channels": 1, "segment_seconds": 0.5, **arguments}
    return CDAE(sources, **settings).eval()


def test_layers_have_the_shapes_of_table_1() -> None:
    network = CDAENetwork(1, **PAPER)
    shapes: list[tuple[str, int, tuple[int, int]]] = []

    def note(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        if not isinstance(layer, nn.ReLU):
            filters, frames, bins = output.shape[1:]
            shapes.append((type(layer).__name__, filters, (frames, bins)))

    layers = list(network.layers)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        layer.register_forward_hook(note)
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (3, 3)
            assert isinstance(following, nn.ReLU)
    assert network(torch.rand(1, 1, 1025, 15)).shape == (1, 1, 1025, 15)
    assert shapes == [
        ("Conv2d", 12, (15, 1025)),
        ("MaxPool2d", 12, (5, 205)),
        ("Conv2d", 20, (5, 205)),
        ("MaxPool2d", 20, (5, 41)),
        ("Conv2d", 30, (5, 41)),
        ("Conv2d", 40, (5, 41)),
        ("Conv2d", 30, (5, 41)),
        ("Conv2d", 20, (5, 41)),
        ("Upsample", 20, (5, 205)),
        ("Conv2d", 12, (5, 205)),
        ("Upsample", 12, (15, 1025)),
        ("Conv2d", 1, (15, 1025)),
    ]


def test_parameter_count_is_the_papers() -> None:
    model = CDAE(FOUR, audio_channels=1)
    for name in FOUR:
        assert sum(weights.numel() for weights in model.networks[name].parameters()) == 37_101
    assert sum(weights.numel() for weights in model.parameters()) == 4 * 37_101


def test_segments_are_processed_independently() -> None:
    """47 frames are three complete segments and the first two frames of a fourth."""
    torch.manual_seed(0)
    network = CDAENetwork(2, 15, [4, 6, 4], [3, 3], [[3, 5]])
    magnitudes = torch.rand(2, 2, 60, 47)
    together = network(magnitudes)
    for start in (0, 15, 30):
        alone = network(magnitudes[..., start : start + 15])
        assert torch.allclose(together[..., start : start + 15], alone, atol=1e-6)
    rest = torch.cat([magnitudes[..., 45:], torch.zeros(2, 2, 60, 13)], -1)
    assert torch.allclose(together[..., 45:], network(rest)[..., :2], atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "filters", "kernel_size", "pools"),
    [
        (7, [3, 4, 3], [3, 3], [[3, 5]]),  # 7 frames are padded to 9, the next multiple of 3
        (16, [3, 4, 5, 4, 3], [5, 1], [[2, 3], [4, 2]]),
        (1, [3], [1, 7], []),
        (15, [3, 3], [3, 3], [[3, 5]]),
    ],
)
def test_any_frames_filters_pools_and_depth(
    frames: int, filters: list[int], kernel_size: list[int], pools: list[list[int]]
) -> None:
    model = small(frames=frames, filters=filters, kernel_size=kernel_size, pools=pools)
    estimates = model(torch.randn(2, 1, 9000) * 0.1)
    assert estimates.shape == (2, 4, 1, 9000)
    assert model.loss(Batch(torch.randn(2, 1, 9000), torch.randn(2, 4, 1, 9000)))["loss"] > 0


def test_estimates_are_equation_2() -> None:
    model = small()
    mixture = torch.randn(1, 1, 9000) * 0.3
    spectrum = model.stft(mixture)
    outputs = model.magnitudes(spectrum.abs())
    total = outputs.sum(1, keepdim=True)
    shares = torch.where(total > 0, outputs / total, 0.25)
    expected = model.istft(shares * spectrum[:, None], 9000)
    assert torch.allclose(model(mixture), expected, atol=1e-6)


def test_zero_magnitudes_share_the_mixture_equally() -> None:
    model = small()
    for network in model.networks.values():
        nn.init.zeros_(network.layers[-2].weight)  # type: ignore[union-attr,index]
    mixture = torch.randn(1, 1, 5000) * 0.3
    assert torch.allclose(model(mixture), (mixture / 4)[:, None].expand(1, 4, 1, -1), atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_sample_corrupts_only_the_frames_that_contain_it(value: float) -> None:
    model = small()
    mixture = torch.randn(1, 1, 30_000) * 0.3
    mixture[..., 10_000] = value
    with torch.no_grad():
        estimates = model(mixture)
    corrupted = ~estimates.isfinite().all(1).flatten()
    assert corrupted[10_000]
    assert corrupted.nonzero().min() > 10_000 - 2 * 512
    assert corrupted.nonzero().max() < 10_000 + 2 * 512
    assert ((estimates.sum(1) - mixture).abs().flatten()[~corrupted] < 1e-6).all()


def test_chunk_seconds_sets_the_chunk_length_of_separation() -> None:
    model = small(segment_seconds=0.371519, chunk_seconds=2.0)
    assert model.segment_seconds == 2.0
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _m, inputs: sizes.append(inputs[0].shape[-1]))
    model.separate(torch.randn(2, 100_000))
    assert sizes == [88_200]


def test_loss_is_equation_1_averaged_over_bins_and_summed_over_sources() -> None:
    model = small()
    targets = torch.randn(2, 4, 1, 9000) * 0.1
    mixture = targets.sum(1)
    losses = model.loss(Batch(mixture, targets))
    outputs = model.magnitudes(model.whole_frames(mixture).abs())
    squares = (outputs - model.whole_frames(targets).abs()) ** 2
    for number, name in enumerate(FOUR):
        assert torch.allclose(losses[f"loss/{name}"], squares[:, number].mean())
    assert torch.allclose(losses["loss"], sum(losses[f"loss/{name}"] for name in FOUR))  # type: ignore[arg-type]


def test_training_crop_is_one_segment_of_371_ms() -> None:
    """The paper's 370 ms are 15 frames with a hop of 1024, not of 512."""
    config = settings_of("cdae")
    arguments = config["model"]
    samples = round(config["data"]["segment_seconds"] * 44100)
    assert samples == 14 * 1024 + 2048 == 16_384
    assert round(samples / 44.1, 1) == 371.5
    model = CDAE(["vocals", "rest"], audio_channels=1)
    assert (model.hop_length, model.n_fft, model.mask) == (1024, 2048, "ratio")
    assert (arguments["hop_length"], arguments["n_fft"], arguments["frames"]) == (1024, 2048, 15)
    assert model.whole_frames(torch.zeros(1, samples)).shape == (1, 1025, 15)
    assert round((14 * 512 + 2048) / 44.1) == 209


@pytest.mark.parametrize(("samples", "hop_length"), [(2048, 512), (2049, 256), (3000, 512)])
def test_whole_frames_equal_an_unpadded_stft(samples: int, hop_length: int) -> None:
    model = small(n_fft=1024, hop_length=hop_length)
    waveform = torch.randn(2, 3, samples)
    plain = torch.stft(
        waveform.flatten(0, 1), 1024, hop_length, window=model.transform.window, center=False,
        return_complex=True,
    )  # fmt: skip
    whole = model.whole_frames(waveform)
    assert whole.shape == (2, 3, 513, 1 + (samples - 1024) // hop_length)
    assert torch.allclose(whole.flatten(0, 1), plain, atol=1e-4)


def test_whole_frames_of_a_short_waveform_are_all_frames() -> None:
    model = small()
    assert torch.equal(model.whole_frames(torch.ones(1, 300)), model.stft(torch.ones(1, 300)))


def test_optimizer_and_schedule_are_the_papers() -> None:
    init_args = settings_of("cdae")["model"]
    assert init_args["optimizer"]["class_path"] == "torch.optim.NAdam"
    weights = [nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.NAdam(weights, **init_args["optimizer"]["init_args"])
    settings = optimizer.defaults
    assert (settings["lr"], settings["eps"], settings["momentum_decay"]) == (0.002, 1e-8, 0.004)
    assert list(settings["betas"]) == [0.9, 0.999]
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, **init_args["lr_scheduler"]["init_args"]
    )
    rates = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.9, 0.89999, 0.8):
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.002, 0.002, 0.002, 0.002, 0.0002, 0.0002, 0.0002])
