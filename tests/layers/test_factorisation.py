"""Factorisation: formulas, decreasing divergence, scikit-learn's solver, invalid input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.decomposition import non_negative_factorization
from torch import Tensor

from lightning_modules.layers import factorisation as nmf

BINS, RANK, SEGMENTS, FRAMES = 13, 3, 2, 17


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def problem(length: int, frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
    """Independent random magnitudes, templates and activations."""
    return (
        random(BINS, SEGMENTS, frames, seed=1) ** 4,
        random(BINS, RANK, length, seed=2),
        random(RANK, SEGMENTS, frames, seed=3),
    )


def explained(templates: Tensor, activations: Tensor) -> Tensor:
    """The definition: a sum over templates, delays and frames."""
    model = torch.zeros(len(templates), *activations.shape[1:], dtype=torch.float64)
    for template in range(templates.shape[1]):
        for delay in range(templates.shape[2]):
            for frame in range(delay, activations.shape[2]):
                model[:, :, frame] += torch.outer(
                    templates[:, template, delay], activations[template, :, frame - delay]
                )
    return model


@pytest.mark.parametrize(("length", "frames"), [(1, 17), (5, 17), (8, 3), (4, 1)])
def test_updates_equal_the_formulas(length: int, frames: int) -> None:
    """Also for segments shorter than the templates."""
    magnitudes, templates, activations = problem(length, frames)
    model = explained(templates, activations)
    torch.testing.assert_close(nmf.reconstruct(templates, activations), model)
    expected = (magnitudes * (magnitudes / model).log() - magnitudes + model).sum()
    torch.testing.assert_close(nmf.divergence(magnitudes, model), expected)

    # A multiplicative update is W <- W * minus / plus with the gradient plus - minus.
    for which, updated in (
        (0, nmf.update_templates(magnitudes, templates, activations)),
        (1, nmf.update_activations(magnitudes, templates, activations)),
    ):
        parts = [templates.clone(), activations.clone()]
        parts[which].requires_grad_()
        model = explained(*parts)
        (plus,) = torch.autograd.grad(model.sum(), parts[which], retain_graph=True)
        (minus,) = torch.autograd.grad((magnitudes * model.log()).sum(), parts[which])
        expected = torch.where(plus > 0, parts[which] * minus / plus, 0).detach()
        torch.testing.assert_close(updated, expected)


@pytest.mark.parametrize("length", [1, 2, 8])
def test_every_update_decreases_the_divergence(length: int) -> None:
    magnitudes, templates, activations = problem(length)
    last = nmf.divergence(magnitudes, nmf.reconstruct(templates, activations))
    for _ in range(60):
        templates = nmf.update_templates(magnitudes, templates, activations)
        middle = nmf.divergence(magnitudes, nmf.reconstruct(templates, activations))
        activations = nmf.update_activations(magnitudes, templates, activations)
        found = nmf.divergence(magnitudes, nmf.reconstruct(templates, activations))
        assert found < middle < last
        last = found


def test_every_iteration_decreases_the_divergence() -> None:
    magnitudes, templates, _ = problem(4)
    for learn in (True, False):
        found = [
            nmf.divergence(
                magnitudes,
                nmf.reconstruct(*nmf.factorise(magnitudes, templates, iterations, learn)),
            )
            for iterations in range(30)
        ]
        assert all(after < before for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("length", [1, 3])
def test_synthetic_magnitudes_are_recovered(length: int) -> None:
    templates = random(BINS, RANK, length, seed=4) ** 6
    played = random(RANK, SEGMENTS, FRAMES, seed=5) ** 6
    magnitudes = nmf.reconstruct(templates, played)
    _, activations = nmf.factorise(magnitudes, templates, 2000, learn_templates=False)
    torch.testing.assert_close(
        nmf.reconstruct(templates, activations), magnitudes, atol=1e-3, rtol=0
    )


def test_agrees_with_scikit_learn() -> None:
    """Both solvers update the templates first."""
    magnitudes, templates, _ = problem(1)
    flat = magnitudes.flatten(1).numpy()
    theirs_w, theirs_h, _ = non_negative_factorization(
        flat,
        W=templates[..., 0].numpy().copy(),
        H=np.ones((RANK, flat.shape[1])),
        n_components=RANK,
        init="custom",
        solver="mu",
        beta_loss="kullback-leibler",
        tol=0,
        max_iter=30,
    )
    ours_w, ours_h = nmf.factorise(magnitudes, templates, 30)
    np.testing.assert_allclose(ours_w[..., 0].numpy(), theirs_w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours_h.flatten(1).numpy(), theirs_h, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [1, 4])
def test_factorisations_and_segments_are_independent(length: int) -> None:
    magnitudes, templates, _ = problem(length)
    other = random(*magnitudes.shape, seed=7)
    both = torch.stack([magnitudes, other])
    learned, activations = nmf.factorise(both, templates.expand(2, *templates.shape), 5)
    for number, alone in enumerate((magnitudes, other)):
        expected = nmf.factorise(alone, templates, 5)
        torch.testing.assert_close(learned[number], expected[0])
        torch.testing.assert_close(activations[number], expected[1])
    _, together = nmf.factorise(magnitudes, templates, 5, learn_templates=False)
    for segment in range(SEGMENTS):
        part = magnitudes[:, segment, None]
        _, apart = nmf.factorise(part, templates, 5, learn_templates=False)
        torch.testing.assert_close(together[:, segment, None], apart)


def test_template_sums_add_up_over_segments() -> None:
    magnitudes, templates, activations = problem(3)
    parts = [
        nmf.template_sums(magnitudes[:, [segment]], templates, activations[:, [segment]])
        for segment in range(SEGMENTS)
    ]
    numerators, denominators = (sum(part, torch.zeros(())) for part in zip(*parts, strict=True))
    expected = nmf.update_templates(magnitudes, templates, activations)
    torch.testing.assert_close(numerators / denominators, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 4])
def test_silence_gives_zero_activations(length: int, dtype: torch.dtype) -> None:
    templates = random(BINS, RANK, length).to(dtype)
    silence = torch.zeros(BINS, SEGMENTS, FRAMES, dtype=dtype)
    for learn in (True, False):
        learned, activations = nmf.factorise(silence, templates, 3, learn)
        assert learned.isfinite().all()
        model = nmf.reconstruct(learned, activations)
        assert not model.any()
        assert nmf.divergence(silence, model) == 0
    assert not nmf.normalised(torch.zeros_like(templates)).any()


@pytest.mark.parametrize("level", [1e-12, 1e4])
def test_silent_bins_frames_and_templates(level: float) -> None:
    magnitudes, templates, _ = (part.float() for part in problem(4))
    magnitudes *= level
    magnitudes[:, :, 5:12] = 0
    magnitudes[3] = 0
    templates[:, 1] = 0
    templates[4] = 0  # a bin that no template contains
    learned, activations = nmf.factorise(magnitudes, templates, 30)
    assert learned.isfinite().all()
    assert activations.isfinite().all()
    assert not learned[:, 1].any()
    model = nmf.reconstruct(learned, activations)
    expected = magnitudes[[0, 1, 2]].sum()
    torch.testing.assert_close(model[[0, 1, 2]].sum(), expected, rtol=0.3, atol=0)
    assert not model[4].any()


def test_normalised_templates_sum_to_one() -> None:
    templates = nmf.normalised(random(2, BINS, RANK, 4))
    torch.testing.assert_close(templates.sum((-3, -1)), torch.ones(2, RANK, dtype=torch.float64))
