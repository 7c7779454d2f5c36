"""Oracles: estimates computed from the true sources, most of them upper bounds of methods.

A mask computed from the true sources approximates the best score of models that estimate such a
mask. The mixture as estimate gives the score of doing nothing. Definitions are those of SiSEC 2018
(Stöter, Liutkus and Ito 2018, "The 2018 Signal Separation Evaluation Campaign"): a Hann window of
2048 samples and a hop of 1024; all oracles but `mwf` process channels separately. `nmf` and
`blind_nmfd` factorise magnitude spectrograms, with a window of 4096 samples and a hop of 1024.

In formulas, X is the spectrum of the mixture, Y_j that of true source j and E_j that of its
estimate. In shapes, S is sources, C channels, N frames, F bins, R templates and P frames of a
template.

All are functions of the waveforms of a mixture (C, T) and its true sources (S, C, T). They return
estimates (S, C, T) with the same dtype and device, and raise ValueError if the shapes do not match.
Songs are processed block by block, except in the factorisations, which keep a spectrogram of the
whole song in memory.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lightning_modules.evaluation import frames
from lightning_modules.layers import factorisation
from lightning_modules.layers.masks import masks

Oracle = Callable[[Tensor, Tensor], Tensor]

N_FFT = 2048
HOP_LENGTH = N_FFT // 2
# STFT and number of updates of the factorisations: Goel et al., Table 3.
NMF_N_FFT, NMF_HOP_LENGTH, NMF_ITERATIONS = 4096, 1024, 30


def ideal_binary_mask(mixture: Tensor, sources: Tensor, alpha: float, theta: float = 0.5) -> Tensor:
    """Assign to each source the bins of the mixture in which it has at least a minimum share.

        E_j = X  where  |Y_j|^alpha >= theta |X|^alpha,  else 0

    `theta` is the minimum share. A bin may be assigned to several sources or to none, so the
    estimates do not necessarily add up to the mixture.
    """
    # Compared after the root 1 / alpha of both sides, because |Y|^alpha could underflow.
    threshold = theta ** (1 / alpha)

    def estimate(mixed: Tensor, true: Tensor) -> Tensor:
        assigned: Tensor = true.abs() >= threshold * mixed.abs()
        return mixed * assigned

    return _filtered(mixture, sources, estimate)


def ideal_ratio_mask(mixture: Tensor, sources: Tensor, alpha: float) -> Tensor:
    """Divide each bin of the mixture among the sources.

        E_j = X |Y_j|^alpha / sum_k |Y_k|^alpha

    The estimates add up to the mixture, because a bin in which all sources are zero is divided
    equally. SiSEC's code sets it to zero; this makes no difference if the mixture is the sum of its
    sources. With `alpha` 2 it is a Wiener filter of each channel.
    """

    def estimate(mixed: Tensor, true: Tensor) -> Tensor:
        return mixed * masks(true.abs()[None] ** alpha, "ratio")[0]

    return _filtered(mixture, sources, estimate)


def multichannel_wiener(mixture: Tensor, sources: Tensor) -> Tensor:
    """Multichannel Wiener filter with the statistics of the true sources.

    Local Gaussian model (Duong, Vincent and Gribonval 2010, "Under-determined reverberant audio
    source separation using a full-rank spatial covariance model"): in frame n and bin f the
    covariance of source j over channels is v_j(n, f) R_j(f). Its power v_j and its spatial
    covariance R_j, constant in time, are fitted to the true source Y_j with C channels:

        R_j(f) = mean_n( Y_j Y_j^H / (|Y_j|^2 / C) ),  scaled to trace C, then e I is added
        v_j(n, f) = trace( R_j^-1 Y_j Y_j^H ) / C
        E_j = v_j R_j ( sum_k v_k R_k )^-1 X

    The last equation is the multichannel Wiener filter (Liutkus and Badeau 2015, "Generalized
    Wiener filtering with fractional power spectrograms"). e is the square root of the machine
    epsilon, 1.5e-8. With the epsilon itself, as in SiSEC's code, the inverse of a singular R_j (of
    a source with equal channels, such as a centred bass) would consist of rounding errors. Computed
    in float64 if the device supports it.
    """
    spatial, inverse = _spatial_covariances(mixture, sources)
    channels = mixture.shape[0]

    def estimate(mixed: Tensor, true: Tensor) -> Tensor:
        true = true.movedim(1, -1)  # (S, C, N, F) -> (S, N, F, C)
        powers = torch.einsum("snfc,sfcd,snfd->snf", true.conj(), inverse, true).real / channels
        models = powers[..., None, None] * spatial[:, None]  # (S, N, F, C, C)
        # Divided by the total power, because covariances near zero cannot be inverted.
        power = powers.sum(0)[..., None, None]
        models = models / power.clamp_min(torch.finfo(power.dtype).tiny)
        total = torch.where(power > 0, models.sum(0), torch.eye(channels).to(models))
        unmixed = models @ (_inverse(total) @ mixed.movedim(0, -1)[..., None])
        return unmixed[..., 0].movedim(-1, 1)  # (S, N, F, C) -> (S, C, N, F)

    return _filtered(mixture, sources, estimate, _highest_precision(mixture))


def nmf(mixture: Tensor, sources: Tensor, rank: int) -> Tensor:
    """Separate the mixture by factorisation with templates learned from its true sources.

    An upper bound of non-negative matrix factorisation with `rank` templates of one frame per
    source. For each true source, templates (random at first) and activations (1 at first) are
    fitted with 30 multiplicative updates. Then the activations of all templates are fitted to the
    mixture with another 30 updates. All channels have the same templates, but their own
    activations. Each bin is divided among the sources in proportion to the magnitudes that their
    templates reconstruct, so the estimates add up to the mixture.
    """
    _check(mixture, sources)
    learned = []
    for source in sources:
        magnitudes = _long_spectra(source).abs().movedim(0, 1)  # (F, C, N)
        start = _random_templates(magnitudes, rank, 1)
        learned.append(factorisation.factorise(magnitudes, start, NMF_ITERATIONS)[0])
    templates = factorisation.normalised(torch.stack(learned))  # (S, F, R, 1)
    joined = templates.movedim(0, 1).flatten(1, 2)  # (F, S R, 1)
    spectra = _long_spectra(mixture)
    magnitudes = spectra.abs().movedim(0, 1)
    fitted = factorisation.factorise(magnitudes, joined, NMF_ITERATIONS, learn_templates=False)
    activations = fitted[1].unflatten(0, (len(sources), rank))
    return _masked_mixture(mixture, spectra, templates, activations)


def blind_nmfd(mixture: Tensor, sources: Tensor, template_frames: int) -> Tensor:
    """Factorise the mixture alone, then assign components to sources by the true sources.

    Goel, Huang, Owoputi and Poudyal, "Music source separation using deep learning", section 3.5 and
    Table 3: non-negative matrix factor deconvolution into as many components as sources, with 30
    updates of templates (random at first) and activations (1 at first). The 8 frames of a template
    in the paper span 0.25 s (seven hops and a window, at 44.1 kHz). Components have no labels; the
    assignment that maximises the mean SDR is used, which makes this an oracle. All channels have
    the same templates, but their own activations; the paper has one channel. The estimates add up
    to the mixture.
    """
    _check(mixture, sources)
    spectra = _long_spectra(mixture)
    magnitudes = spectra.abs().movedim(0, 1)  # (F, C, N)
    start = _random_templates(magnitudes, len(sources), template_frames)
    templates, activations = factorisation.factorise(magnitudes, start, NMF_ITERATIONS)
    components = _masked_mixture(
        mixture, spectra, templates.movedim(1, 0)[:, :, None], activations[:, None]
    )
    # The mean SDR is maximal where the sum of log errors is minimal, because the energies of the
    # sources do not depend on the assignment.
    errors = torch.stack([(components - source).square().sum((1, 2)) for source in sources])
    _, order = linear_sum_assignment((errors + 1e-7).log().cpu().numpy())
    return components[torch.from_numpy(order).to(components.device)]


def mixture_as_estimate(mixture: Tensor, sources: Tensor) -> Tensor:
    """Use the mixture as the estimate of every source, without copying it."""
    _check(mixture, sources)
    return mixture.expand_as(sources)


ORACLES: dict[str, Oracle] = {
    "ibm1": partial(ideal_binary_mask, alpha=1),
    "ibm2": partial(ideal_binary_mask, alpha=2),
    "irm1": partial(ideal_ratio_mask, alpha=1),
    "irm2": partial(ideal_ratio_mask, alpha=2),
    "mwf": multichannel_wiener,
    "nmf": partial(nmf, rank=16),
    "blind_nmfd": partial(blind_nmfd, template_frames=8),
    "mixture": mixture_as_estimate,
}


def _filtered(
    mixture: Tensor,
    sources: Tensor,
    estimate: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Apply `estimate` to the STFT block by block, and transform the results to waveforms.

    `estimate` maps the spectra of mixture (C, N, F) and sources (S, C, N, F) to estimated spectra
    (S, C, N, F). They are computed in `dtype`, by default the mixture's.
    """
    _check(mixture, sources)
    window = _window(mixture, dtype)
    result = torch.zeros_like(sources)
    for block, mixed, true in _spectra(mixture, sources, window):
        _add_frames(result, estimate(mixed, true), block, window)
    # Each sample is in two frames: divide by the sum of their squared windows.
    weight = window.square().reshape(2, HOP_LENGTH).sum(0)
    for start in range(0, result.shape[-1], HOP_LENGTH):
        part = result[..., start : start + HOP_LENGTH]
        part /= weight[: part.shape[-1]]
    return result


def _add_frames(waveforms: Tensor, spectra: Tensor, block: range, window: Tensor) -> None:
    """Overlap-add the inverse transforms of spectra (..., N, F) to waveforms (..., T)."""
    halves = (torch.fft.irfft(spectra, N_FFT) * window).unflatten(-1, (2, HOP_LENGTH))
    # (..., N, 2, hop) -> (..., N + 1, hop) -> (..., samples)
    padding = torch.nn.functional.pad
    added = padding(halves[..., 0, :], (0, 0, 0, 1)) + padding(halves[..., 1, :], (0, 0, 1, 0))
    samples = added.flatten(-2)
    start = (block.start - 1) * HOP_LENGTH  # half a window before the first frame's centre
    samples = samples[..., max(-start, 0) : waveforms.shape[-1] - start]
    waveforms[..., max(start, 0) : max(start, 0) + samples.shape[-1]] += samples


def _spectra(
    mixture: Tensor, sources: Tensor, window: Tensor
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Yield spectra of mixture (C, N, F) and sources (S, C, N, F) block by block."""
    signals = mixture.shape[0] * (len(sources) + 1)
    count = frames.frame_count(mixture.shape[-1], HOP_LENGTH)
    for block in frames.blocks(signals, count, len(window)):
        mixed, true = (
            frames.spectra(frames.segments(signal, block, len(window), HOP_LENGTH), window)
            for signal in (mixture, sources)
        )
        yield block, mixed, true


def _long_spectra(signals: Tensor) -> Tensor:
    """Spectra (..., F, N) of whole signals (..., T), for the factorisations."""
    dtype = torch.promote_types(signals.dtype, torch.float32)
    window = torch.hann_window(NMF_N_FFT, dtype=dtype, device=signals.device)
    options: dict[str, Any] = {"pad_mode": "constant", "return_complex": True}
    return torch.stft(signals.to(dtype), NMF_N_FFT, NMF_HOP_LENGTH, window=window, **options)


def _random_templates(magnitudes: Tensor, rank: int, frames: int) -> Tensor:
    """Initial templates (F, R, P), the same on every call and device."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(len(magnitudes), rank, frames, generator=generator).to(magnitudes)


def _masked_mixture(
    mixture: Tensor, spectra: Tensor, templates: Tensor, activations: Tensor
) -> Tensor:
    """Mask the mixture, with spectra (C, F, N), by the magnitudes that templates reconstruct.

    Templates of the sources have shape (S, F, R, P), activations (S, R, C, N).
    """
    window = torch.hann_window(NMF_N_FFT, dtype=templates.dtype, device=mixture.device)
    estimates = mixture.new_empty(len(templates), *mixture.shape)
    for channel, spectrum in enumerate(spectra):
        explained = factorisation.reconstruct(templates, activations[:, :, channel, None])
        shares = masks(explained[None, ..., 0, :], "ratio")[0]  # (S, F, N)
        estimates[:, channel] = torch.istft(
            shares * spectrum, NMF_N_FFT, NMF_HOP_LENGTH, window=window, length=mixture.shape[-1]
        )
    return estimates


def _spatial_covariances(mixture: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the spatial covariances of the sources; return them and their inverses (S, F, C, C)."""
    _check(mixture, sources)
    window = _window(mixture, _highest_precision(mixture))
    channels = mixture.shape[0]
    total: Tensor | int = 0
    for _, _, true in _spectra(mixture, sources, window):
        power = true.abs().square().mean(1, keepdim=True)
        directions = true / power.sqrt().clamp_min(torch.finfo(power.dtype).tiny)
        total = total + torch.einsum("scnf,sdnf->sfcd", directions, directions.conj())
    assert isinstance(total, Tensor)
    trace = total.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
    identity = torch.eye(channels).to(total)
    limits = torch.finfo(trace.dtype)
    # A silent source gets the identity.
    spatial = torch.where(trace > 0, total * channels / trace.clamp_min(limits.tiny), identity)
    spatial = spatial + limits.eps**0.5 * identity
    return spatial, _inverse(spatial)


def _inverse(matrices: Tensor) -> Tensor:
    """Invert Hermitian matrices (..., C, C); stereo in closed form, which is much faster."""
    if matrices.shape[-1] != 2:
        inverse: Tensor = torch.linalg.inv(matrices)
        return inverse
    (a, b), (c, d) = (row.unbind(-1) for row in matrices.unbind(-2))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return adjugate / (a * d - b * c)[..., None, None]


def _window(mixture: Tensor, dtype: torch.dtype | None) -> Tensor:
    dtype = dtype or torch.promote_types(mixture.dtype, torch.float32)
    return torch.hann_window(N_FFT, dtype=dtype, device=mixture.device)


def _highest_precision(mixture: Tensor) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if mixture.device.type == "mps" else torch.float64


def _check(mixture: Tensor, sources: Tensor) -> None:
    if sources.ndim != 3 or mixture.shape != sources.shape[1:] or not mixture.shape[-1]:
        raise ValueError(
            f"the mixture has shape {tuple(mixture.shape)}, the sources {tuple(sources.shape)}: "
            "expected (channels, samples) and (sources, channels, samples), at least one sample"
        )
