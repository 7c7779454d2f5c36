"""Bleedless and fullness: too much, and too little, in the bands of a mel spectrogram.

Measures of the MVSEP community, proposed by "jarredou" in 2024 and defined by code alone (the
`bleed_full` of ZFTurbo's Music-Source-Separation-Training, whose figures these are). They tell
leakage and holes apart where an SDR sums them up; their weaknesses stand at `bleedless_fullness`.
"""

import torch
import torchaudio
from torch import Tensor

from lightning_modules.evaluation import frames

_N_FFT = 4096
_HOP_LENGTH = 1024
_BANDS = 512
_SMALLEST_MAGNITUDE = 1e-10
_RANGE_DB = 80


@torch.no_grad()
def bleedless_fullness(
    references: Tensor, estimates: Tensor, sample_rate: int = 44100
) -> tuple[Tensor, Tensor]:
    """Compute bleedless and fullness.

        L = 20 log10 max(M |STFT|, 1e-10),  raised to max(L) - 80 wherever it is lower
        d = L_e - L_s
        bleedless = 100 / (1 + mean of d where d > 0)
        fullness  = 100 / (1 - mean of d where d < 0)

    with a Hann window of 4096 samples, a hop of 1024 and 512 mel bands (Slaney's scale and
    norm) of magnitudes; the maximum and the means go over channels, bands and frames.

    The means leave out bands without an excess, so that a single loud leak and leakage
    everywhere may have the same figure. The floor hangs on the loudest band of each signal: an
    estimate whose peak is 1 dB too loud has 1 dB too much in every silent band. And a band at the
    floor counts as much as the melody. So read the two beside an SDR, never alone. The floor is
    known at the end only, so that signals are transformed twice.

    Args:
        references: True sources, nominally in [-1, 1], shape (..., C, T).
        estimates: Estimates, same shape.
        sample_rate: Samples per second.

    Returns:
        Bleedless and fullness, 0 to 100, which equal signals have; float64 on the CPU, each of
        shape (...). NaN wherever a sample is not finite.

    Raises:
        ValueError: The shapes differ, or there are no samples.
    """
    if references.shape != estimates.shape or references.ndim < 2 or not references.numel():
        raise ValueError(
            f"references have shape {tuple(references.shape)}, estimates "
            f"{tuple(estimates.shape)}: expected both as (..., channels, samples), at least one"
        )
    samples = references.shape[-1]
    dtype = torch.promote_types(references.dtype, torch.float32)
    window = torch.hann_window(_N_FFT, dtype=dtype, device=references.device)
    bands = torchaudio.functional.melscale_fbanks(
        _N_FFT // 2 + 1, 0, sample_rate / 2, _BANDS, sample_rate, norm="slaney", mel_scale="slaney"
    ).to(window)

    def levels(signal: Tensor, block: range) -> Tensor:
        """Levels in dB, shape (..., C, N, bands)."""
        spectra = frames.spectra(frames.segments(signal, block, _N_FFT, _HOP_LENGTH), window)
        return 20 * torch.log10((spectra.abs() @ bands).clamp_min(_SMALLEST_MAGNITUDE))

    signals = references.numel() // samples
    all_blocks = list(frames.blocks(signals, samples // _HOP_LENGTH + 1, _N_FFT))
    floors = torch.full((2, *references.shape[:-2], 1, 1, 1), -torch.inf).to(window)
    for block in all_blocks:
        loudest = [levels(signal, block).amax((-3, -2, -1)) for signal in (references, estimates)]
        floors = floors.maximum(torch.stack(loudest)[..., None, None, None] - _RANGE_DB)

    totals = torch.zeros(4, *references.shape[:-2], dtype=torch.float64)
    for block in all_blocks:
        excess = levels(estimates, block).maximum(floors[1])
        excess -= levels(references, block).maximum(floors[0])
        parts = (excess.clamp_min(0), excess > 0, -excess.clamp_max(0), excess < 0)
        totals += torch.stack([part.sum((-3, -2, -1)).cpu().double() for part in parts])
    too_much, bands_above, too_little, bands_below = totals
    return (
        100 / (1 + too_much / bands_above.clamp_min(1)),
        100 / (1 + too_little / bands_below.clamp_min(1)),
    )
