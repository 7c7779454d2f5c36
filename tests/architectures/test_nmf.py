"""NMF and NMFD: templates that are learned, and what they separate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules import cli
from lightning_modules.architectures.nmf import NMF, mean_excerpts
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.layers import factorisation
from tests.helpers.command_line import CSV, TINY

SOURCES = ["high", "low"]
FRAMES = pytest.mark.parametrize("template_frames", [1, 4])


def model(**arguments: Any) -> NMF:
    torch.manual_seed(0)
    small = {"rank": 2, "iterations": 10, "n_fft": 512, "hop_length": 256, "sample_rate": 8000}
    return NMF(SOURCES, **{**small, "segment_seconds": 0.5, **arguments})


def songs(count: int = 2, samples: int = 6000, seed: int = 0) -> Batch:
    """Two sources in bands of their own, on and off by turns."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 8000
    sources = []
    for hertz in (2000, 300):
        rhythm = (torch.rand(count, 2, 8, generator=generator) > 0.5).float()
        loud = rhythm.repeat_interleave(samples // 8 + 1, -1)[..., :samples]
        noise = 0.02 * torch.randn(count, 2, samples, generator=generator)
        sources.append(loud * (torch.sin(2 * torch.pi * hertz * time) + noise))
    targets = torch.stack(sources, 1)
    return Batch(targets.sum(1), targets)


def step(module: NMF, batch: Batch) -> Tensor:
    """One step of training."""
    optimizer = module.configure_optimizers()
    optimizer.zero_grad()
    loss = module.loss(batch)["loss"]
    loss.backward()
    optimizer.step()
    return loss.detach()


# ----------------------------------------------------------------- training


@FRAMES
def test_a_whole_step_is_the_multiplicative_update(template_frames: int) -> None:
    module, batch = model(template_frames=template_frames, step_size=1.0), songs()
    before = module.templates()
    found = module.stft(batch.targets).abs().permute(1, 3, 0, 2, 4).flatten(2, 3)
    expected = []
    for magnitudes, templates in zip(found, before, strict=True):
        _, activations = factorisation.factorise(magnitudes, templates, 10, False)
        updated = factorisation.update_templates(magnitudes, templates, activations)
        expected.append(factorisation.normalised(updated))
        explained = factorisation.reconstruct(templates, activations)
        divergence = factorisation.divergence(magnitudes, explained) / magnitudes.numel()
        name = SOURCES[len(expected) - 1]
        torch.testing.assert_close(module.loss(batch)[f"loss/{name}"], divergence)
    parts = module.loss(batch)
    torch.testing.assert_close(parts["loss"].detach(), parts["loss/high"] + parts["loss/low"])
    step(module, batch)
    torch.testing.assert_close(module.templates(), torch.stack(expected))


def test_steps_average_the_sums_of_batches() -> None:
    """So does Lightning over accumulated batches and ranks: gradients are linear in the sums."""
    module, batch = model(step_size=0.25), songs(4)
    halves = [Batch(*(part[half] for part in batch)) for half in (slice(2), slice(2, 4))]
    gradients = []
    for part in (batch, *halves):
        module.zero_grad()
        module.loss(part)["loss"].backward()
        gradients.append([weight.grad.clone() for weight in module.parameters()])  # type: ignore[union-attr]
    for whole, *parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean(0))

    module = model(step_size=0.25)
    before = module.denominators.detach().clone()
    module.loss(batch)["loss"].backward()
    assert module.denominators.grad is not None
    sums = before - module.denominators.grad
    step(module, batch)
    torch.testing.assert_close(module.denominators.detach(), 0.75 * before + 0.25 * sums)


@FRAMES
def test_training_lowers_the_divergence_and_separates(template_frames: int) -> None:
    module = model(template_frames=template_frames, step_size=0.3)
    losses = [float(step(module, songs(seed=seed))) for seed in range(12)]
    assert losses[-1] < 0.3 * losses[0]
    heard = songs(seed=99)
    with torch.no_grad():
        estimates = module(heard.mixture)
    torch.testing.assert_close(estimates.sum(1), heard.mixture, atol=1e-5, rtol=0)
    error = (estimates - heard.targets).square().mean()
    assert error < 0.02 * (heard.mixture[:, None] - heard.targets).square().mean()


def test_validation_has_no_gradients() -> None:
    with torch.no_grad():
        assert not model().loss(songs())["loss"].requires_grad


def test_mixed_precision_leaves_the_factorisation_alone() -> None:
    expected = model().loss(songs())["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module = model()
        assert torch.equal(module.loss(songs())["loss"], expected)
        module(songs().mixture)


def test_ranks_may_differ() -> None:
    module = model(rank={"low": 1, "high": 3})
    assert module.numerators.shape == (2, 257, 3, 1)
    step(module, songs())
    templates = module.templates()
    assert templates.isfinite().all()
    assert templates[0].any(0).all()
    assert templates[1, :, 0].any()
    assert not templates[1, :, 1:].any()


def test_means_of_excerpts() -> None:
    magnitudes = torch.arange(24.0).reshape(1, 1, 2, 12)  # frames 0 to 23 in two segments
    assert torch.equal(mean_excerpts(magnitudes, 2, 1).flatten(), torch.tensor([5.5, 17.5]))
    # stretches of two excerpts of three frames: 0 1 2, 3 4 5 | 6 7 8, 9 10 11 | ...
    found = mean_excerpts(magnitudes, 4, 3)
    assert found.shape == (1, 1, 4, 3)
    assert torch.equal(found[0, 0, :2], torch.tensor([[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]]))
    short = mean_excerpts(magnitudes[..., :1], 3, 2)  # two frames, 0 and 12, for three times two
    assert torch.equal(short[0, 0], torch.tensor([[0.0, 12.0]]).expand(3, 2))


# --------------------------------------------------------------- separation


@FRAMES
@pytest.mark.parametrize("adapt_templates", [False, True])
def test_channels_and_songs_are_factorised_apart(
    template_frames: int, adapt_templates: bool
) -> None:
    module = model(template_frames=template_frames, adapt_templates=adapt_templates)
    magnitudes = torch.rand(2, 2, 257, 9)
    found = module.magnitudes(magnitudes)
    assert found.shape == (2, 2, 2, 257, 9)
    templates = torch.cat(list(module.templates()), 1)  # (F, S R, P)
    for song in range(2):
        for channel in range(2):
            alone = magnitudes[song, channel][:, None]
            adapted, activations = factorisation.factorise(alone, templates, 10, adapt_templates)
            for source in range(2):
                own = slice(2 * source, 2 * source + 2)
                expected = factorisation.reconstruct(adapted[:, own], activations[own])
                torch.testing.assert_close(found[song, source, channel], expected[:, 0])


def test_adapted_templates_explain_more() -> None:
    magnitudes = torch.rand(1, 2, 257, 9)
    errors = [
        factorisation.divergence(
            magnitudes[0].transpose(0, 1),
            model(adapt_templates=adapt).magnitudes(magnitudes)[0].sum(0).transpose(0, 1),
        )
        for adapt in (True, False)
    ]
    assert errors[0] < errors[1]


def test_mono() -> None:
    module = model(audio_channels=1)
    stereo = songs().mixture[0]
    estimates = module.separate(stereo)
    assert estimates.shape == (2, *stereo.shape)
    torch.testing.assert_close(estimates.sum(0), stereo, atol=1e-5, rtol=0)


# ----------------------------------------------------------------- bad input


@FRAMES
@pytest.mark.parametrize("samples", [1, 100, 511, 700])
def test_segments_shorter_than_the_templates(template_frames: int, samples: int) -> None:
    module, batch = model(template_frames=template_frames), songs(samples=samples)
    assert step(module, batch).isfinite()
    with torch.no_grad():
        estimates = module(batch.mixture)
    torch.testing.assert_close(estimates.sum(1), batch.mixture, atol=1e-5, rtol=0)


def test_silence_teaches_nothing() -> None:
    module = model()
    before = module.templates()
    silence = Batch(torch.zeros(2, 2, 4000), torch.zeros(2, 2, 2, 4000))
    for _ in range(3):
        assert step(module, silence) == 0
    assert torch.equal(module.templates(), before)
    assert not module(silence.mixture).any()
    half = songs()
    half.targets[:, 0] = 0
    step(module, half)
    assert torch.equal(module.templates()[0], before[0])
    assert not torch.equal(module.templates()[1], before[1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_sample_spoils_its_own_frames_alone(value: float) -> None:
    module, batch = model(template_frames=4), songs()
    batch.mixture[0, 0, 3000] = value
    with torch.no_grad():
        estimates = module(batch.mixture)
    assert estimates[0, :, 1].isfinite().all()
    assert estimates[1].isfinite().all()
    good = torch.ones(6000, dtype=torch.bool)
    good[3000 - 512 : 3000 + 512] = False
    torch.testing.assert_close(
        estimates[0, :, 0].sum(0)[good], batch.mixture[0, 0, good], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_batch_has_a_bad_loss(value: float) -> None:
    """By which the step is left out."""
    batch = songs()
    batch.targets[0, 0, 0, 3000] = value
    assert not model().loss(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank is 0.*from 1 on"),
        ({"rank": {"high": 2}}, "rank names high.*low is missing"),
        ({"template_frames": 0}, "template_frames 0"),
        ({"iterations": 0}, "iterations 0"),
        ({"initial_templates": "pitched"}, "pitched.*random or data"),
        ({"step_size": 0.0}, "step_size is 0"),
        ({"step_size": 1.5}, r"step_size is 1\.5"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**arguments)


# -------------------------------------------------------------- a whole run


def run(config: str, *arguments: str) -> int:
    small = [f"--model.init_args.{key}={value}" for key, value in NMF.tiny.items()]
    settings = [word for word in TINY if not word.startswith("--model")]
    return cli.main(["fit", "--config", config, *settings, *small, *CSV, *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("config", ["nmf.yaml", "nmfd.yaml"])
def test_resumed_run_is_the_unbroken_one(
    config: str, musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, two = f"--data.init_args.root={musdb_root}", "--trainer.max_epochs=2"
    assert run(config, root, two, "--run_dir", "whole") == 0
    assert run(config, root, "--run_dir", "broken") == 0
    assert run(config, root, two, "--run_dir", "broken", "--ckpt_path", "last") == 0
    whole, broken = (
        load_separator(Path(name, "checkpoints/last.ckpt")).state_dict()
        for name in ("whole", "broken")
    )
    assert whole.keys() == broken.keys() == {"numerators", "denominators"}
    for name, value in whole.items():
        assert torch.equal(value, broken[name])


class Compared(NMF):
    """Looks at the end whether all ranks have the same templates."""

    def on_train_end(self) -> None:
        ranks = self.all_gather(self.templates()).reshape(-1, *self.numerators.shape)  # type: ignore[union-attr]
        assert all(torch.equal(templates, ranks[0]) for templates in ranks)

    def teardown(self, stage: str) -> None:
        """A thread of gloo that is left when a rank ends now and then aborts it (torch 2.14)."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def fit(root: Path, folder: Path, ranks: int, module: NMF) -> dict[str, Tensor]:
    data = MUSDBDataModule(
        root=str(root), segment_seconds=0.2, batch_size=4, examples_per_epoch=8, num_workers=0
    )
    Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_spawn" if ranks > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    ).fit(module, data)
    return module.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("initial_templates", ["random", "data"])
def test_two_ranks(
    initial_templates: str,
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have the same templates, those of one rank where the start is the same."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    states = []
    for ranks in (1, 2):
        torch.manual_seed(0)
        module = Compared(
            ["vocals", "drums", "bass", "other"],
            **NMF.tiny,
            segment_seconds=0.2,
            initial_templates=initial_templates,  # type: ignore[arg-type]
        )
        states.append(fit(musdb_root, tmp_path, ranks, module))
    for name, alone in states[0].items():
        assert states[1][name].isfinite().all()
        if initial_templates == "random":
            torch.testing.assert_close(states[1][name], alone, rtol=1e-4, atol=1e-6)
