"""BSS Eval v4 on tensors, on any device: for a GPU, where many frames and systems go at once.

The figures and conventions are those of `bss_eval`, the formulas those of `projection`. What
differs is the way to the filters: the recursion over taps that suits a processor would keep a GPU
waiting, so the systems are formed and solved by a batched Cholesky factorisation, whose ridge
conjugate gradients take away. All is computed in float64: in float32, whole decibels are lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lightning_modules.evaluation.bss_eval import engine as on_processor
from lightning_modules.evaluation.bss_eval import projection, toeplitz_torch
from lightning_modules.evaluation.bss_eval.correlations import fft_length
from lightning_modules.evaluation.bss_eval.engine import Evaluation

_TRANSFORMED = 2**27  # samples of blocks that are transformed at once: 1 GiB


def bss_eval(
    reference_sources: Tensor,
    estimated_sources: Tensor,
    window: float = 2 * 44100,
    hop: float = 1.5 * 44100,
    compute_permutation: bool = False,
    filters_len: int = 512,
    framewise_filters: bool = False,
    bsseval_sources_version: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do what `bss_eval.bss_eval` does, on the device of the tensors.

    Args:
        reference_sources: True sources, shape (sources, samples, channels).
        estimated_sources: Estimates in the same order, same shape.
        window: Length of a frame, samples; infinity for the whole signal.
        hop: Distance between the starts of two frames, samples.
        compute_permutation: Look for the best order of estimates (by museval, on the processor).
        filters_len: Taps of the distortion filters.
        framewise_filters: Fit the filters anew in every frame.
        bsseval_sources_version: Compute the "sources" figures (by museval, on the processor).

    Returns:
        SDR, ISR, SIR and SAR in dB, float64 of shape (sources, frames), and the permutation.

    Raises:
        ValueError: As there.
        ScorerUnavailableError: As there.

    Warns:
        BSSEvalWarning: As there.
    """
    device = reference_sources.device
    if compute_permutation or bsseval_sources_version:
        results = on_processor.bss_eval(
            reference_sources.detach().cpu().numpy(),
            estimated_sources.detach().cpu().numpy(),
            window=window,
            hop=hop,
            compute_permutation=compute_permutation,
            filters_len=filters_len,
            framewise_filters=framewise_filters,
            bsseval_sources_version=bsseval_sources_version,
        )
    else:
        found = evaluate(
            reference_sources, estimated_sources, window, hop, filters_len, framewise_filters
        )
        on_processor.warn(found)
        results = (found.sdr, found.isr, found.sir, found.sar, found.permutation)
    sdr, isr, sir, sar, permutation = (torch.from_numpy(result).to(device) for result in results)
    return sdr, isr, sir, sar, permutation


@torch.no_grad()
def evaluate(
    reference_sources: Tensor,
    estimated_sources: Tensor,
    window: float = 2 * 44100,
    hop: float = 1.5 * 44100,
    filters_len: int = 512,
    framewise_filters: bool = False,
) -> Evaluation:
    """Do what `bss_eval.evaluate` does, on the device of the tensors.

    Args:
        reference_sources: See `bss_eval`, as for all that follow.
        estimated_sources: Estimates.
        window: Length of a frame, samples.
        hop: Distance between the starts of two frames, samples.
        filters_len: Taps of the distortion filters.
        framewise_filters: Fit the filters anew in every frame.

    Returns:
        The figures.

    Raises:
        ValueError: As `bss_eval`.
    """
    references = torch.atleast_3d(reference_sources)
    estimates = torch.atleast_3d(estimated_sources)
    if on_processor.is_empty(
        references, estimates, lambda: (_flags(references), _flags(estimates))
    ):
        none = np.array([])
        return Evaluation(none, none, none, none, none.astype(np.int64))
    sources, samples, channels = references.shape
    frames = on_processor.frame_bounds(window, hop, samples)
    taps = on_processor.tap_count(filters_len)
    audible = _audible(references, estimates, frames)
    # signals source by source, channel by channel: references, then estimates
    audio = torch.cat([references, estimates]).permute(0, 2, 1).reshape(-1, samples).double()
    copies = _copies(audio, sources, channels)

    squares = np.full((len(frames), 3, sources), np.nan)
    energies = np.full((projection.ENERGIES, len(frames), sources), np.nan)
    fitted: list[_Filters] = []
    if not framewise_filters:
        fitted.append(_fit(_correlate(audio[None], taps), sources, copies))
    longest = max((stop - start for start, stop in frames), default=1)
    longest = max(1, longest)
    size = _frames_at_once(len(audio), longest, taps, framewise_filters)
    for first in range(0, len(audible), size):
        group = audible[first : first + size]
        bounds = [frames[index] for index in group]
        waves = torch.stack(
            [functional.pad(audio[:, a:b], (0, longest - (b - a))) for a, b in bounds]
        )
        lags = _correlate(waves, taps)
        if framewise_filters:
            fitted.append(_fit(lags, sources, copies))
        levels = _squares(waves, sources)
        values, spoilt = _energies(lags, levels, fitted[-1])
        squares[group], energies[:, group] = levels.cpu().numpy(), values.cpu().numpy()
        for row, source in torch.nonzero(spoilt).tolist():
            start, stop = bounds[row]
            energies[:, group[row], source] = projection.filtered_energies(
                references[:, start:stop].cpu().numpy(),
                estimates[source, start:stop].cpu().numpy(),
                source,
                fitted[-1].to_numpy(row if framewise_filters else 0),
            )
    order = np.arange(sources)[:, None]
    no_sets = np.zeros((0, sources))
    return Evaluation(
        *on_processor.decibels(squares, energies),
        np.tile(order, len(frames) if framewise_filters else 1),
        on_processor.doubts(
            np.concatenate([no_sets, *(part.own_condition for part in fitted)]),
            np.concatenate([no_sets[:, 0], *(part.all_condition for part in fitted)]),
        ),
    )


def _flags(signals: Tensor) -> NDArray[np.bool_]:
    """Which sources are silent throughout; signals (S, T, C)."""
    flags: NDArray[np.bool_] = (signals.sum(dim=2) == 0).all(dim=1).cpu().numpy()
    return flags


def _audible(references: Tensor, estimates: Tensor, frames: list[tuple[int, int]]) -> list[int]:
    """Frames in which no source and no estimate is silent."""
    heard = torch.cat([references.sum(dim=2) != 0, estimates.sum(dim=2) != 0])
    counts = functional.pad(heard.cumsum(dim=1), (1, 0)).cpu().numpy()
    return [
        index
        for index, (start, stop) in enumerate(frames)
        if (counts[:, start] < counts[:, stop]).all()
    ]


def _copies(audio: Tensor, sources: int, channels: int) -> list[int]:
    """Reference channels that equal an earlier one of their source."""
    return [
        source * channels + channel
        for source in range(sources)
        for channel in range(channels)
        if any(
            torch.equal(audio[source * channels + channel], audio[source * channels + earlier])
            for earlier in range(channel)
        )
    ]


def _frames_at_once(rows: int, longest: int, taps: int, framewise: bool) -> int:
    size = _TRANSFORMED // (4 * rows * longest)
    if framewise:
        size = min(size, toeplitz_torch.NUMBERS // (rows // 2 * taps) ** 2)
    return max(1, size)


def _correlate(waves: Tensor, taps: int) -> Tensor:
    """Correlate stretches as `Correlator.stretch` does; (B, 2 P, T) to (B, 2 P, P, F)."""
    stretches, rows, samples = waves.shape
    n_fft = fft_length(samples, taps)
    hop = n_fft - (taps - 1)
    blocks = -(-samples // hop)
    padded = functional.pad(waves, (taps - 1, blocks * hop - samples))
    at_once = max(1, _TRANSFORMED // (2 * stretches * rows * n_fft))
    total = waves.new_zeros((), dtype=torch.complex128)
    for first in range(0, blocks, at_once):
        count = min(at_once, blocks - first)
        part = padded[..., first * hop : (first + count) * hop + taps - 1]
        delayed = torch.fft.rfft(part[:, : rows // 2].unfold(-1, n_fft, hop))
        fresh = part[..., taps - 1 :].unflatten(-1, (count, hop))
        present = torch.fft.rfft(functional.pad(fresh, (taps - 1, 0)))
        # (B, rows, blocks, bins) to (B, bins, ., .): a small product a bin sums over blocks
        total = total + delayed.permute(0, 3, 1, 2).conj() @ present.permute(0, 3, 2, 1)
    lags: Tensor = torch.fft.irfft(total.permute(0, 3, 2, 1), n_fft)[..., :taps]
    return lags.contiguous()


@dataclass
class _Filters:
    """Filters of one or more stretches: `projection.Filters` with one axis more in front."""

    own: Tensor
    all: Tensor
    own_condition: NDArray[np.float64]
    all_condition: NDArray[np.float64]

    def to_numpy(self, row: int) -> projection.Filters:
        return projection.Filters(
            self.own[row].cpu().numpy(),
            self.all[row].cpu().numpy(),
            self.own_condition[row],
            float(self.all_condition[row]),
        )


def _fit(correlations: Tensor, sources: int, copies: list[int]) -> _Filters:
    """Fit filters to stretches as `projection.fit` does; correlations (B, 2 P, P, F)."""
    stretches, _, signals, taps = correlations.shape
    channels = signals // sources
    correlations = correlations.clone()
    correlations[:, :, copies] = 0
    correlations[:, copies] = 0
    among, right = correlations[:, :signals], correlations[:, signals:]
    every, all_condition = toeplitz_torch.solve(among, right)
    own, own_condition = every, all_condition
    if sources > 1:
        # (B, S, C, S, C, F), and of each source its own block
        shape = (stretches, sources, channels, sources, channels, taps)
        own_lags, own_right = (
            part.reshape(shape).diagonal(dim1=1, dim2=3).permute(0, 4, 1, 2, 3).flatten(0, 1)
            for part in (among, right)
        )
        own, own_condition = toeplitz_torch.solve(own_lags, own_right)
    return _Filters(
        own.reshape(stretches, sources, channels, channels, taps),
        every.reshape(stretches, sources, channels, signals, taps),
        own_condition.reshape(stretches, sources),
        all_condition,
    )


def _squares(waves: Tensor, sources: int) -> Tensor:
    """|s|^2, |e|^2 and |e - s|^2; waves (B, 2 P, T), result (B, 3, S)."""
    reference, estimate = waves.chunk(2, dim=1)
    levels = [
        signal.square().sum(dim=2).unflatten(1, (sources, -1)).sum(dim=2)
        for signal in (reference, estimate, estimate - reference)
    ]
    return torch.stack(levels, dim=1)


def _weights(filters: _Filters) -> Tensor:
    """`projection.energy_weights` of each stretch: (B, ENERGIES, S, 2 P, P, F)."""
    stretches, sources, channels, signals, taps = filters.all.shape
    weights = filters.all.new_zeros(
        (stretches, projection.ENERGIES, sources, 2 * signals, signals, taps)
    )
    for source in range(sources):
        rows = slice(source * channels, (source + 1) * channels)
        every = filters.all[:, source]
        own = torch.zeros_like(every)
        own[:, :, rows] = filters.own[:, source]
        spatial = own.clone()
        spatial[:, :, rows, 0] -= torch.eye(channels).to(own)
        for form, combined in enumerate((own, spatial, every - own, every)):
            weights[:, form, source, :signals] = _autocorrelation(combined)
        weights[:, 4, source] = weights[:, 3, source]
        weights[:, 4, source, signals:][:, rows] = -2 * every
    return weights


def _autocorrelation(filters: Tensor) -> Tensor:
    """As in `projection`: filters (B, C, P, F), result (B, P, P, F)."""
    taps = filters.shape[-1]
    spectra = torch.fft.rfft(filters, 2 * taps).permute(0, 3, 2, 1)
    product = (spectra.conj() @ spectra.mT).permute(0, 2, 3, 1)
    weights: Tensor = torch.fft.irfft(product, 2 * taps)[..., :taps]
    weights[..., 1:] *= 2
    return weights


def _energies(lags: Tensor, squares: Tensor, filters: _Filters) -> tuple[Tensor, Tensor]:
    """`projection.frame_energies`, with filters of all frames or of each."""
    frames, _, signals, _ = lags.shape
    sources = squares.shape[-1]
    eps = torch.finfo(torch.float64).eps
    weights = _weights(filters)
    lags, heard = torch.nan_to_num(lags, posinf=0, neginf=0), squares[:, 1]
    flat = weights.reshape(len(weights), projection.ENERGIES * sources, -1)
    if len(weights) == 1:
        values = lags.reshape(frames, -1) @ flat[0].mT
    else:
        values = (flat @ lags.reshape(frames, -1, 1))[..., 0]
    values = values.reshape(frames, projection.ENERGIES, sources).transpose(0, 1).contiguous()
    values[4] += heard
    power = lags[:, :signals, :, 0].diagonal(dim1=1, dim2=2)
    known = torch.nan_to_num(heard, posinf=0).repeat_interleave(signals // sources, dim=1)
    both = torch.cat([power, known], dim=1)
    spread = weights.square().sum(dim=-1).expand(frames, -1, -1, -1, -1)
    rounding = torch.einsum("fnsqk,fq,fk->nfs", spread, both, power)
    rounding = eps * rounding.clamp(min=0).sqrt()
    rounding[4] += eps * heard
    if sources == 1:
        values[2], rounding[2] = 0 * values[0], 0
    return values, (rounding > projection.TOLERANCE * values).any(dim=0)
