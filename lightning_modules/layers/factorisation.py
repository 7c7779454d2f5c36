"""Non-negative matrix factor deconvolution by multiplicative updates.

A magnitude spectrogram V (F x N) is modelled by R templates of P frames each, with activations H
(R x N):

    U(f, n) = sum_r sum_p W(f, r, p) H(r, n - p)

P = 1 is non-negative matrix factorisation, U = W H. No update increases the generalised
Kullback-Leibler divergence (Goel et al., equation 3):

    D(V | U) = sum( V log(V / U) - V + U )

For P = 1 the updates are Goel et al.'s equations 4 and 5 (Lee and Seung 2001, "Algorithms for
non-negative matrix factorization"), with J a matrix of ones of V's size. For P > 1 they are those
of Smaragdis 2004, "Non-negative matrix factor deconvolution", with one difference: he averages
the updates of H over the shifts p, which can increase the divergence. Here numerators and
denominators are summed over the shifts first, without frames beyond the end of V, so that each
update minimises an upper bound that touches the divergence.

Axes: F bins, R templates, P frames of a template, G segments that share templates and are
shifted independently, N frames; leading axes (...) are independent factorisations. All functions
take non-negative magnitudes V (..., F, G, N), templates W (..., F, R, P) and activations H
(..., R, G, N).
"""

from __future__ import annotations

import torch
from torch import Tensor


def reconstruct(templates: Tensor, activations: Tensor) -> Tensor:
    """Compute the model's magnitudes U, shape (..., F, G, N)."""
    shifted = _shifted(activations, templates.shape[-1]).flatten(-2)  # (..., R P, G N)
    explained: Tensor = (templates.flatten(-2) @ shifted).unflatten(-1, activations.shape[-2:])
    return explained


def divergence(magnitudes: Tensor, model: Tensor) -> Tensor:
    """Compute the divergence, shape (...), of V from a model U (Goel et al., equation 3)."""
    bins = torch.xlogy(magnitudes, _ratio(magnitudes, model)) - magnitudes + model
    return bins.flatten(-3).sum(-1)


def update_activations(magnitudes: Tensor, templates: Tensor, activations: Tensor) -> Tensor:
    """Update the activations once (Goel et al., equation 5, summed over the shifts).

    Activations of a zero template, or of silence, become zero.
    """
    ratio = _model_ratio(magnitudes, templates, activations)
    transposed = templates.flatten(-2).mT  # (..., R P, F)
    shape = (*templates.shape[-2:], *activations.shape[-2:])
    numerators = (transposed @ ratio.flatten(-2)).unflatten(-1, shape[2:]).unflatten(-3, shape[:2])
    # (..., R, P) -> (..., R, P, 1, N); frames beyond the end are not counted.
    sums = templates.sum(-3)[..., None, None].expand(*templates.shape[:-3], *shape[:2], 1, shape[3])
    return activations * _ratio(_unshifted(numerators), _unshifted(sums))


def template_sums(
    magnitudes: Tensor, templates: Tensor, activations: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute numerators and denominators of a template update (Goel et al., equation 4).

    Both are sums over segments, so that data larger than memory can be processed in parts.

    Returns:
        Numerators, W times those of the equation, shape (..., F, R, P), and denominators,
        shape (..., 1, R, P).
    """
    ratio = _model_ratio(magnitudes, templates, activations)
    shifted = _shifted(activations, templates.shape[-1])  # (..., R P, G, N)
    numerators = ratio.flatten(-2) @ shifted.flatten(-2).mT
    denominators = shifted.sum((-2, -1))[..., None, :]
    shape = templates.shape[-2:]
    return templates * numerators.unflatten(-1, shape), denominators.unflatten(-1, shape)


def update_templates(magnitudes: Tensor, templates: Tensor, activations: Tensor) -> Tensor:
    """Update the templates once (Goel et al., equation 4)."""
    return _ratio(*template_sums(magnitudes, templates, activations))


def factorise(
    magnitudes: Tensor, templates: Tensor, iterations: int, learn_templates: bool = True
) -> tuple[Tensor, Tensor]:
    """Factorise magnitudes; activations are initialised to ones.

    Args:
        magnitudes: Also finite; N may be below P.
        templates: Initial templates.
        iterations: Number of updates of each, templates first.
        learn_templates: Update templates and activations; otherwise activations only.

    Returns:
        Templates and activations.
    """
    shape = (*magnitudes.shape[:-3], templates.shape[-2], *magnitudes.shape[-2:])
    activations = magnitudes.new_ones(shape)
    for _ in range(iterations):
        if learn_templates:
            templates = update_templates(magnitudes, templates, activations)
        activations = update_activations(magnitudes, templates, activations)
    return templates, activations


def normalised(templates: Tensor) -> Tensor:
    """Scale templates to a sum of one over bins and frames; zero templates stay zero."""
    return _ratio(templates, templates.sum((-3, -1), keepdim=True))


def _ratio(numerators: Tensor, denominators: Tensor) -> Tensor:
    """Divide with 0 / 0 = 0 and without overflow."""
    return numerators / denominators.clamp_min(torch.finfo(denominators.dtype).tiny ** 0.5)


def _model_ratio(magnitudes: Tensor, templates: Tensor, activations: Tensor) -> Tensor:
    """Compute V / U in the memory of U; allocation would take longer than the division."""
    model = reconstruct(templates, activations)
    model.clamp_min_(torch.finfo(model.dtype).tiny ** 0.5)
    return torch.div(magnitudes, model, out=model)


def _shifted(activations: Tensor, frames: int) -> Tensor:
    """Delay activations (..., R, G, N) by 0 to ``frames - 1`` frames: (..., R P, G, N)."""
    if frames == 1:
        return activations
    padded = torch.nn.functional.pad(activations, (frames - 1, 0))
    # (..., R, G, P, N), the longest delay first -> (..., R, P, G, N)
    delayed = padded.unfold(-1, activations.shape[-1], 1).flip(-2)
    return delayed.transpose(-3, -2).flatten(-4, -3)


def _unshifted(parts: Tensor) -> Tensor:
    """Undo the delays of parts (..., R, P, G, N) and sum over P."""
    total = parts[..., 0, :, :].clone() if parts.shape[-3] > 1 else parts[..., 0, :, :]
    frames = parts.shape[-1]
    for delay in range(1, min(parts.shape[-3], frames)):
        total[..., : frames - delay] += parts[..., delay, :, delay:]
    return total
