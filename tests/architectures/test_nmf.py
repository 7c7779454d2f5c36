"""NMF and NMFD: training of templates, separation, runs."""

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
from tests.helpers.ranks import several_ranks

SOURCES = ["high", "low"]
FRAMES = pytest.mark.parametrize("template_frames", [1, 4])


def model(**arguments: Any) -> NMF:
    torch.manual_seed(0)
    small = {"rank": 2, "iterations": 10, "n_fft": 512, "hop_length": 256, "sample_rate": 8000}
    return NMF(SOURCES, **{**small, "segment_seconds": 0.5, **arguments})


def songs(count: int = 2, samples: int = 6000, seed: int = 0) -> Batch:
    """Two intermittent tones of different frequency."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 8000
    sources = []
    for hertz in (2000, 300):
        gate = (torch.rand(count, 2, 8, generator=generator) > 0.5).float()
        loud = gate.repeat_interleave(samples // 8 + 1, -1)[..., :samples]
        noise = 0.02 * torch.randn(count, 2, samples, generator=generator)
        sources.append(loud * (torch.sin(2 * torch.pi * hertz * time) + noise))
    targets = torch.stack(sources, 1)
    return Batch(targets.sum(1), targets)


def step(module: NMF, batch: Batch) -> Tensor:
    """Take one training step."""
    optimizer = module.configure_optimizers()
    optimizer.zero_grad()
    loss = module.loss(batch)["loss"]
    loss.backward()
    optimizer.step()
    return loss.detach()


@FRAMES
def test_a_step_of_size_one_is_the_multiplicative_update(template_frames: int) -> None:
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


def test_steps_average_the_sums_over_batches() -> None:
    """Gradients are linear in the sums, so gradient accumulation and DDP average them, too."""
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
    unseen = songs(seed=99)
    with torch.no_grad():
        estimates = module(unseen.mixture)
    torch.testing.assert_close(estimates.sum(1), unseen.mixture, atol=1e-5, rtol=0)
    error = (estimates - unseen.targets).square().mean()
    assert error < 0.02 * (unseen.mixture[:, None] - unseen.targets).square().mean()


def test_loss_without_gradients() -> None:
    with torch.no_grad():
        assert not model().loss(songs())["loss"].requires_grad


def test_factorisation_stays_float32_under_autocast() -> None:
    expected = model().loss(songs())["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module = model()
        assert torch.equal(module.loss(songs())["loss"], expected)
        module(songs().mixture)


def test_numbers_of_templates_may_differ() -> None:
    module = model(rank={"low": 1, "high": 3})
    assert module.numerators.shape == (2, 257, 3, 1)
    step(module, songs())
    templates = module.templates()
    assert templates.isfinite().all()
    assert templates[0].any(0).all()
    assert templates[1, :, 0].any()
    assert not templates[1, :, 1:].any()


def test_mean_excerpts() -> None:
    magnitudes = torch.arange(24.0).reshape(1, 1, 2, 12)  # frames 0 to 23 in two segments
    assert torch.equal(mean_excerpts(magnitudes, 2, 1).flatten(), torch.tensor([5.5, 17.5]))
    # Each part has two excerpts of three frames: 0 1 2, 3 4 5 | 6 7 8, 9 10 11 | ...
    found = mean_excerpts(magnitudes, 4, 3)
    assert found.shape == (1, 1, 4, 3)
    assert torch.equal(found[0, 0, :2], torch.tensor([[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]]))
    short = mean_excerpts(magnitudes[..., :1], 3, 2)  # the frames 0 and 12 are repeated
    assert torch.equal(short[0, 0], torch.tensor([[0.0, 12.0]]).expand(3, 2))


@FRAMES
@pytest.mark.parametrize("adapt_templates", [False, True])
def test_channels_and_songs_are_factorised_independently(
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


def test_adapted_templates_lower_the_divergence() -> None:
    magnitudes = torch.rand(1, 2, 257, 9)
    errors = [
        factorisation.divergence(
            magnitudes[0].transpose(0, 1),
            model(adapt_templates=adapt).magnitudes(magnitudes)[0].sum(0).transpose(0, 1),
        )
        for adapt in (True, False)
    ]
    assert errors[0] < errors[1]


def test_silence_leaves_templates_unchanged() -> None:
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
def test_a_non_finite_sample_corrupts_only_the_frames_that_contain_it(value: float) -> None:
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
def test_loss_of_a_non_finite_batch_is_not_finite(value: float) -> None:
    """Steps with such a loss are skipped."""
    batch = songs()
    batch.targets[0, 0, 0, 3000] = value
    assert not model().loss(batch)["loss"].isfinite()


def run(config: str, *arguments: str) -> int:
    small = [f"--model.init_args.{key}={value}" for key, value in NMF.tiny.items()]
    settings = [word for word in TINY if not word.startswith("--model")]
    return cli.main(["fit", "--config", config, *settings, *small, *CSV, *arguments])


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_run(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, two = f"--data.init_args.root={musdb_root}", "--trainer.max_epochs=2"
    assert run("nmfd.yaml", root, two, "--run_dir", "complete") == 0
    assert run("nmfd.yaml", root, "--run_dir", "resumed") == 0
    assert run("nmfd.yaml", root, two, "--run_dir", "resumed", "--ckpt_path", "last") == 0
    complete, resumed = (
        load_separator(Path(name, "checkpoints/last.ckpt")).state_dict()
        for name in ("complete", "resumed")
    )
    assert complete.keys() == resumed.keys() == {"numerators", "denominators"}
    for name, value in complete.items():
        assert torch.equal(value, resumed[name])


class Compared(NMF):
    """Checks at the end of training that all ranks have the same templates."""

    def on_train_end(self) -> None:
        ranks = self.all_gather(self.templates()).reshape(-1, *self.numerators.shape)  # type: ignore[union-attr]
        assert all(torch.equal(templates, ranks[0]) for templates in ranks)

    def teardown(self, stage: str) -> None:
        """Synchronise before exit: a leftover gloo thread sometimes aborts a rank (torch 2.14)."""
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
        strategy=several_ranks() if ranks > 1 else "auto",
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
def test_two_ranks_have_the_same_templates(
    initial_templates: str,
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With random templates, also the same as one rank."""
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
