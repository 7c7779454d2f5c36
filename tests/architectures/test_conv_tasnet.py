"""Conv-TasNet: parity with torchaudio and the package demucs, norms, causality, checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.conv_tasnet import (
    ConvTasNet,
    ConvTasNetwork,
    CumulativeNorm,
    FrameNorm,
    GlobalNorm,
    Mask,
)
from lightning_modules.base.description import KEY, check_same_model, describe
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration.build import build_model
from lightning_modules.losses import L1, NegativeSISDR
from tests.helpers.configs import settings_of

FOUR = ["vocals", "drums", "bass", "other"]
SMALL = {
    "filters": 8,
    "filter_samples": 6,
    "bottleneck_channels": 4,
    "hidden_channels": 8,
    "layers": 3,
    "repeats": 2,
    "segment_seconds": 0.1,
}
VARIANTS = [
    {"form": "music", "causal": False},
    {"form": "music", "causal": True},
    {"form": "speech", "mask": "sigmoid", "causal": False},
    {"form": "speech", "causal": True},
]
variants = pytest.mark.parametrize("settings", VARIANTS)


def small(sources: list[str] = FOUR, **arguments: Any) -> ConvTasNet:
    torch.manual_seed(0)
    return ConvTasNet(sources, **{**SMALL, **arguments}).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network(
    speech: bool = False, sources: int = 2, audio_channels: int = 1, mask: Mask = "relu"
) -> ConvTasNetwork:
    return ConvTasNetwork(
        sources, audio_channels, 5, 6, 4, 7, 3, 3, 2, speech, mask, False, False
    ).eval()


def test_parameter_count_of_the_music_form() -> None:
    block = 2 * 256 * 512 + 3 * 512 + 2 * 2 * 512 + 2  # 1x1, filters, norms, PReLUs
    ends = 2 * (2 * 256 * 20) + 2 * 256 + 256 * 256 + 256 * 4 * 256
    with torch.device("meta"):
        ours = ConvTasNetwork(4, 2, 256, 20, 256, 512, 3, 10, 4, False, "relu", False, False)
    assert count(ours) == 40 * block + ends == 10_977_872


def test_parameter_count_of_the_speech_form_is_torchaudios() -> None:
    with torch.device("meta"):
        theirs = torchaudio.models.conv_tasnet_base(num_sources=2)
        ours = ConvTasNetwork(2, 1, 512, 16, 128, 512, 3, 8, 3, True, "relu", False, False)
    assert count(ours) == count(theirs) == 4_984_881
    unused = 512 * 128 + 128  # residual convolution of the last block
    assert round((count(ours) + unused) / 1e6, 1) == 5.1  # Luo and Mesgarani's best model


@pytest.mark.parametrize("mask", ["relu", "sigmoid"])
@pytest.mark.parametrize("sources", [1, 3])
def test_speech_form_equals_torchaudios(sources: int, mask: Mask) -> None:
    torch.manual_seed(0)
    theirs = torchaudio.models.ConvTasNet(sources, 6, 5, 3, 4, 7, 3, 2, mask).eval()
    ours = network(True, sources, mask=mask)
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other.normal_(std=0.5))
        for samples in (1, 2, 3, 7, 300, 301, 302):
            mixture = noise(2, 1, samples)
            estimates = theirs(mixture)
            assert estimates.abs().max() > 1e-3
            assert torch.allclose(ours(mixture)[:, :, 0], estimates, atol=1e-5, rtol=1e-5)


def by_formula() -> ConvTasNetwork:
    """A network in double precision whose weights are sines of their indices."""
    ours = network(audio_channels=2).double()
    with torch.no_grad():
        for number, weights in enumerate(ours.parameters()):
            indices = torch.arange(weights.numel(), dtype=torch.float64)
            weights.copy_((indices * (number + 1)).sin().mul(0.5).reshape(weights.shape))
    return ours


# Samples 0, 150 and 299 of each source and channel, as the package's first version (commit
# 7cf5c60) computes them from these weights.
PACKAGE = [
    [[0.0721465950, -0.0643699134, -0.1562173017], [-0.0688760781, 0.1010813355, 0.0410065920]],
    [[0.1769796451, 0.0166778578, -0.1453542246], [-0.1917949187, 0.1170002165, 0.0381550655]],
]


def test_music_form_equals_the_packages() -> None:
    mixture = torch.arange(2 * 300, dtype=torch.float64).view(1, 2, -1).mul(0.1).sin()
    with torch.no_grad():
        found = by_formula()(mixture)[0, :, :, [0, 150, 299]]
    assert torch.allclose(found, torch.tensor(PACKAGE, dtype=torch.float64), atol=1e-9)


def test_initial_weights_have_the_variances_of_the_package() -> None:
    """Xavier's formula, 2 / (inputs + outputs), for all but PReLU slopes, which are 0.25."""
    torch.manual_seed(0)
    ours = ConvTasNetwork(4, 2, 256, 20, 256, 512, 3, 1, 1, False, "relu", False, False)
    block = ours.blocks[0]
    variances = {
        "encoder.0.weight": 2 / (2 * 20 + 256 * 20),
        "bottleneck.0.weight": 2 / (256 + 1),
        "bottleneck.0.bias": 2 / (256 + 1),
        "bottleneck.1.weight": 2 / (256 + 256),
        "blocks.0.hidden.0.weight": 2 / (256 + 512),
        "blocks.0.hidden.2.weight": 2 / (512 + 1),
        "blocks.0.hidden.2.bias": 2 / (512 + 1),
        "blocks.0.hidden.3.weight": 2 / (3 + 512 * 3),
        "blocks.0.hidden.5.bias": 2 / (512 + 1),
        "blocks.0.residual.weight": 2 / (512 + 256),
        "masks.1.weight": 2 / (256 + 1024),
        "decoder.weight": 2 / (256 + 40),
    }
    for name, variance in variances.items():
        found = ours.get_parameter(name).var().item()
        assert found == pytest.approx(variance, rel=0.3), name
    assert {p.item() for p in block.parameters() if p.numel() == 1} == {0.25}


def test_cumulative_norm_equals_its_definition() -> None:
    """Mean and variance of all channels up to each frame, then weight and bias per channel."""
    norm = CumulativeNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    x = noise(2, 3, 50) + 0.3
    x[1, :, :4] = 0
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        with torch.no_grad():
            found = norm.to(dtype)(x.to(dtype))
        for example, frame in ((0, 0), (0, 7), (0, 49), (1, 2), (1, 20)):
            so_far = x[example, :, : frame + 1].double()
            deviation = (so_far.var(correction=0) + 1e-8).sqrt()
            plain = (so_far[:, -1] - so_far.mean()) / deviation
            expected = plain * norm.weight.double() + norm.bias.double()
            assert torch.allclose(found[example, :, frame].double(), expected, atol=tolerance)


def test_last_frame_of_cumulative_norm_equals_global_norm() -> None:
    x = noise(2, 3, 50).double()
    last = CumulativeNorm(3).double()(x)[..., -1]
    assert torch.allclose(last, GlobalNorm(3).double()(x)[..., -1], atol=1e-9)


def test_frame_norm_normalises_each_frame() -> None:
    x = noise(2, 64, 5)
    found = FrameNorm(64)(x)
    assert found.mean(1).abs().max() < 1e-6
    assert torch.allclose(found.var(1, correction=0), torch.ones(2, 5), atol=1e-4)
    assert torch.equal(found[..., 3:4], FrameNorm(64)(x[..., 3:4]))


@pytest.mark.parametrize("form", ["music", "speech"])
def test_causal_estimates_do_not_depend_on_the_future(form: str) -> None:
    """The look-ahead is less than a filter length."""
    model = small(form=form, causal=True)
    mixture = noise(1, 2, 600)
    with torch.no_grad():
        expected = model(mixture)
        for change in range(300, 306):
            changed = mixture.clone()
            changed[..., change:] = noise(1, 2, 600 - change, seed=2)
            moved = (model(changed) != expected).flatten(0, 2).any(0).nonzero()
            assert change - SMALL["filter_samples"] < moved[0] <= change


@pytest.mark.parametrize("form", ["music", "speech"])
def test_non_causal_estimates_depend_on_the_future(form: str) -> None:
    model = small(form=form)
    mixture = noise(1, 2, 600)
    changed = mixture.clone()
    changed[..., 300:] *= 2
    with torch.no_grad():
        moved = (model(changed) != model(mixture)).flatten(0, 2).any(0).nonzero()
    assert moved[0] < 10


@contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Total size of the tensors saved for the backward pass, each storage once."""
    sizes: dict[int, int] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        total[0] = sum(sizes.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


@variants
def test_checkpointed_gradients_are_equal(settings: dict[str, Any]) -> None:
    batch = Batch(noise(2, 2, 1001), noise(2, 4, 2, 1001, seed=2))
    gradients, saved = [], []
    for checkpointed in (False, True):
        model = small(**settings, checkpoint_activations=checkpointed).train()
        with saved_bytes() as total:
            loss = model.loss(batch)["loss"]
        loss.backward()
        saved.append(total[0])
        gradients.append([loss, *(weights.grad for weights in model.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
    assert saved[1] < saved[0] / 2


def test_checkpoints_load_with_other_checkpoint_activations(tmp_path: Path) -> None:
    model = small(checkpoint_activations=True, causal=True)
    checkpoint = {KEY: describe(model), "state_dict": model.state_dict()}
    check_same_model(checkpoint, small(causal=True))
    torch.save(checkpoint, tmp_path / "a.ckpt")
    loaded = load_separator(tmp_path / "a.ckpt")
    mixture = noise(2, 10_001)
    estimates = loaded.separate(mixture)
    assert estimates.shape == (4, 2, 10_001)
    assert torch.equal(estimates, model.separate(mixture))


@variants
def test_silence_gives_silence_and_finite_gradients(settings: dict[str, Any]) -> None:
    """In a silent example, and before and after music."""
    model = small(**settings).train()
    batch = Batch(torch.zeros(3, 2, 1000), noise(3, 4, 2, 1000))
    assert model(batch.mixture).abs().max() == 0
    batch.mixture[1, :, 500:] = noise(2, 500)
    batch.mixture[2, :, :500] = noise(2, 500)
    model.loss(batch)["loss"].backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.any(), name


@variants
def test_estimates_scale_with_the_mixture(settings: dict[str, Any]) -> None:
    model = small(**settings).double()
    mixture = noise(1, 2, 1000).double()
    with torch.no_grad():
        louder, expected = model(8 * mixture), 8 * model(mixture)
    assert (louder - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.slow
def test_one_graph_serves_several_lengths() -> None:
    torch.compiler.reset()
    settings: dict[str, Any] = {**VARIANTS[1], "checkpoint_activations": True}
    model = small(**settings, layers=1, repeats=1).network
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for samples in (1000, 1301):
        mixture = noise(1, 2, samples)
        assert torch.equal(compiled(mixture), model(mixture))


@pytest.mark.slow
def test_recipes_are_the_published_ones() -> None:
    """The package's first version, and Luo and Mesgarani's best model."""
    music = settings_of("conv_tasnet")
    sizes = ["filters", "filter_samples", "bottleneck_channels", "hidden_channels"]
    sizes += ["kernel", "layers", "repeats"]
    assert [music["model"][name] for name in sizes] == [256, 20, 256, 512, 3, 10, 4]
    assert music["model"]["optimizer"]["init_args"] == {"lr": 3e-4}
    assert music["data"]["batch_size"] == 64
    model = build_model("conv_tasnet").model
    assert isinstance(model, ConvTasNet)
    assert isinstance(model.loss_function, L1)
    assert count(model) == 10_977_872
    assert round(music["data"]["segment_seconds"] * 44100) == 80_000
    assert round(model.segment_seconds * 44100) == 320_000
    speech = settings_of("conv_tasnet/speech")
    assert [speech["model"][name] for name in sizes] == [512, 16, 128, 512, 3, 8, 3]
    assert speech["model"]["optimizer"]["init_args"] == {"lr": 1e-3}
    assert (speech["data"]["sample_rate"], speech["data"]["segment_seconds"]) == (8000, 4.0)
    assert (speech["trainer"]["max_epochs"], speech["trainer"]["gradient_clip_val"]) == (100, 5.0)
    model = build_model("conv_tasnet/speech").model
    assert isinstance(model, ConvTasNet)
    assert isinstance(model.loss_function, NegativeSISDR)
    assert count(model) == count(torchaudio.models.conv_tasnet_base(num_sources=2))


def test_the_causal_config_pads_and_normalises_causally() -> None:
    model = build_model("conv_tasnet/causal").model
    assert not [part for part in model.modules() if isinstance(part, GlobalNorm)]
    assert len([part for part in model.modules() if isinstance(part, nn.ConstantPad1d)]) == 40
