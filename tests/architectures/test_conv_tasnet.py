"""Conv-TasNet: torchaudio's and the package's numbers, causality, memory, any input."""

from __future__ import annotations

import shutil
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


# ------------------------------------------------------- other people's numbers


def test_parameters_of_the_music_form_by_their_written_out_sum() -> None:
    block = 2 * 256 * 512 + 3 * 512 + 2 * 2 * 512 + 2  # 1x1, filters, norms, PReLUs
    ends = 2 * (2 * 256 * 20) + 2 * 256 + 256 * 256 + 256 * 4 * 256
    with torch.device("meta"):
        ours = ConvTasNetwork(4, 2, 256, 20, 256, 512, 3, 10, 4, False, "relu", False, False)
    assert count(ours) == 40 * block + ends == 10_977_872


def test_parameters_of_the_speech_form_are_as_many_as_torchaudios() -> None:
    with torch.device("meta"):
        theirs = torchaudio.models.conv_tasnet_base(num_sources=2)
        ours = ConvTasNetwork(2, 1, 512, 16, 128, 512, 3, 8, 3, True, "relu", False, False)
    assert count(ours) == count(theirs) == 4_984_881
    unread = 512 * 128 + 128  # a residual convolution in the last block
    assert round((count(ours) + unread) / 1e6, 1) == 5.1  # Luo and Mesgarani's best model


@pytest.mark.parametrize("mask", ["relu", "sigmoid"])
@pytest.mark.parametrize("sources", [1, 3])
def test_the_speech_form_is_torchaudios(sources: int, mask: Mask) -> None:
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
    """A network in double precision whose weights are sines of their places."""
    ours = network(audio_channels=2).double()
    with torch.no_grad():
        for number, weights in enumerate(ours.parameters()):
            places = torch.arange(weights.numel(), dtype=torch.float64)
            weights.copy_((places * (number + 1)).sin().mul(0.5).reshape(weights.shape))
    return ours


# Samples 0, 150 and 299 of each source and channel, as the package's first version (commit
# 7cf5c60) computes them from these weights.
PACKAGE = [
    [[0.0721465950, -0.0643699134, -0.1562173017], [-0.0688760781, 0.1010813355, 0.0410065920]],
    [[0.1769796451, 0.0166778578, -0.1453542246], [-0.1917949187, 0.1170002165, 0.0381550655]],
]


def test_the_music_form_is_the_packages() -> None:
    mixture = torch.arange(2 * 300, dtype=torch.float64).view(1, 2, -1).mul(0.1).sin()
    with torch.no_grad():
        found = by_formula()(mixture)[0, :, :, [0, 150, 299]]
    assert torch.allclose(found, torch.tensor(PACKAGE, dtype=torch.float64), atol=1e-9)


def test_first_weights_are_drawn_as_the_packages() -> None:
    """By Xavier's formula, 2 / (inputs + outputs), for matrices and filters; PReLUs by 0.25."""
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


# ------------------------------------------------------------------ normalisation


def test_cumulative_norm_by_its_definition() -> None:
    """Mean and variance of all channels up to each frame, then weight and bias a channel."""
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


def test_the_last_frame_of_cumulative_norm_is_that_of_global_norm() -> None:
    x = noise(2, 3, 50).double()
    last = CumulativeNorm(3).double()(x)[..., -1]
    assert torch.allclose(last, GlobalNorm(3).double()(x)[..., -1], atol=1e-9)


def test_frame_norm_sees_a_frame_alone() -> None:
    x = noise(2, 64, 5)
    found = FrameNorm(64)(x)
    assert found.mean(1).abs().max() < 1e-6
    assert torch.allclose(found.var(1, correction=0), torch.ones(2, 5), atol=1e-4)
    assert torch.equal(found[..., 3:4], FrameNorm(64)(x[..., 3:4]))


# ---------------------------------------------------------------------- causality


@pytest.mark.parametrize("form", ["music", "speech"])
def test_causal_estimates_do_not_move_with_the_future(form: str) -> None:
    """A sample of an estimate ends frames that reach less than a filter ahead."""
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
def test_others_hear_the_future(form: str) -> None:
    model = small(form=form)
    mixture = noise(1, 2, 600)
    changed = mixture.clone()
    changed[..., 300:] *= 2
    with torch.no_grad():
        moved = (model(changed) != model(mixture)).flatten(0, 2).any(0).nonzero()
    assert moved[0] < 10


# ------------------------------------------------------------------------- memory


@contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Sizes of what is kept for the backward pass, each storage once."""
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
def test_checkpointed_gradients_are_the_same(settings: dict[str, Any]) -> None:
    batch = Batch(noise(2, 2, 1001), noise(2, 4, 2, 1001, seed=2))
    gradients, kept = [], []
    for checkpointed in (False, True):
        model = small(**settings, checkpoint_activations=checkpointed).train()
        with kept_bytes() as total:
            loss = model.loss(batch)["loss"]
        loss.backward()
        kept.append(total[0])
        gradients.append([loss, *(weights.grad for weights in model.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)
    assert kept[1] < kept[0] / 2


def test_checkpoints_go_with_and_without_checkpointed_activations(tmp_path: Path) -> None:
    model = small(checkpoint_activations=True, causal=True)
    checkpoint = {KEY: describe(model), "state_dict": model.state_dict()}
    check_same_model(checkpoint, small(causal=True))
    torch.save(checkpoint, tmp_path / "a.ckpt")
    loaded = load_separator(tmp_path / "a.ckpt")
    mixture = noise(2, 10_001)
    estimates = loaded.separate(mixture)
    assert estimates.shape == (4, 2, 10_001)
    assert torch.equal(estimates, model.separate(mixture))


# ---------------------------------------------------------------------- any input


@variants
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 2, 3, 5, 6, 7, 999, 1000])
def test_any_length_comes_back(samples: int, channels: int, settings: dict[str, Any]) -> None:
    model = small(audio_channels=channels, **settings)
    for batch in (1, 2):
        with torch.no_grad():
            estimates = model(noise(batch, channels, samples))
        assert estimates.shape == (batch, 4, channels, samples)
        assert estimates.isfinite().all()
        assert estimates[..., -1].abs().max() > 0


@variants
def test_silence_gives_silence_and_finite_gradients(settings: dict[str, Any]) -> None:
    """In a whole example, and before and behind music."""
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
def test_louder_mixtures_give_louder_estimates(settings: dict[str, Any]) -> None:
    model = small(**settings).double()
    mixture = noise(1, 2, 1000).double()
    with torch.no_grad():
        louder, expected = model(8 * mixture), 8 * model(mixture)
    assert (louder - expected).abs().max() < 0.01 * expected.abs().max()


@variants
def test_precision_of_the_input_comes_back(settings: dict[str, Any]) -> None:
    model, mixture = small(**settings), noise(1, 2, 1000)
    with torch.no_grad():
        plain = model(mixture)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(mixture)
        assert mixed.dtype == torch.float32
        assert (mixed - plain).abs().max() < 0.1 * plain.abs().max()
        assert model.bfloat16()(mixture.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "opera"}, "'opera': give music or speech"),
        ({"mask": "softmax"}, "'softmax': give relu or sigmoid"),
        ({"layers": 0}, "layers 0.*from 1 on"),
        ({"filters": 0}, "filters is 0.*from 1 on"),
        ({"filter_samples": 21}, "filter_samples is 21.*even"),
        ({"filter_samples": 0}, "filter_samples is 0"),
        ({"kernel": 2}, "kernel 2.*odd"),
    ],
)
def test_faulty_arguments_are_refused_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)


@pytest.mark.parametrize(
    "settings", [VARIANTS[0], *({**each, "checkpoint_activations": True} for each in VARIANTS)]
)
def test_the_network_is_one_graph(settings: dict[str, Any]) -> None:
    """Of a training crop, and of chunks of another length."""
    torch.compiler.reset()  # each variant would count as one more compilation of the same code
    model = small(**settings, layers=1, repeats=1).network
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for samples in (1000, 1301):
        mixture = noise(1, 2, samples)
        assert torch.equal(compiled(mixture), model(mixture))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("settings", VARIANTS[1:3])
def test_the_compiled_network_agrees(settings: dict[str, Any]) -> None:
    torch.compiler.reset()
    settings = {**settings, "layers": 1, "repeats": 1, "checkpoint_activations": True}
    plain, compiled = small(**settings), small(**settings, compiled=True)
    compiled.setup("fit")
    batch = Batch(noise(2, 2, 1000), noise(2, 4, 2, 1000, seed=2))
    ours, theirs = (model.loss(batch)["loss"] for model in (compiled, plain))
    assert torch.allclose(ours, theirs, rtol=1e-4)
    (ours + theirs).backward()
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6)  # type: ignore[arg-type]


# ------------------------------------------------------------------------ recipes


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
    speech = settings_of("conv_tasnet", "conv_tasnet/speech")
    assert [speech["model"][name] for name in sizes] == [512, 16, 128, 512, 3, 8, 3]
    assert speech["model"]["optimizer"]["init_args"] == {"lr": 1e-3}
    assert (speech["data"]["sample_rate"], speech["data"]["segment_seconds"]) == (8000, 4.0)
    assert (speech["trainer"]["max_epochs"], speech["trainer"]["gradient_clip_val"]) == (100, 5.0)
    model = build_model("conv_tasnet/speech").model
    assert isinstance(model, ConvTasNet)
    assert isinstance(model.loss_function, NegativeSISDR)
    assert count(model) == count(torchaudio.models.conv_tasnet_base(num_sources=2))


def test_the_causal_recipe_hears_and_normalises_by_the_past() -> None:
    model = build_model("conv_tasnet/causal").model
    assert not [part for part in model.modules() if isinstance(part, GlobalNorm)]
    assert len([part for part in model.modules() if isinstance(part, nn.ConstantPad1d)]) == 40
