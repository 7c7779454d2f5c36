"""Base class of models that estimate complex spectra."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.layers.stft import STFT, Window


class ComplexSpectrumSeparator(WaveformSeparator):
    """STFT, a network on real and imaginary parts, inverse STFT; trained on waveforms.

    Between the transforms spectra are real tensors with 2 C channels: left real, left imaginary,
    right real, right imaginary.

    Args:
        sources: Names of the sources, in the order of the estimates.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples.
        window: ``hann`` or ``rectangular``.
        normalized: Divide spectra by the root of ``n_fft``.
        zero_dc: Set bin 0 of the estimates to zero.
        **kwargs: Arguments of ``WaveformSeparator``.

    Raises:
        ValueError: Chunks are shorter than a window.
    """

    def __init__(
        self,
        sources: list[str],
        n_fft: int = 2048,
        hop_length: int = 512,
        window: Window = "hann",
        normalized: bool = False,
        zero_dc: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        self.n_fft, self.hop_length, self.zero_dc = n_fft, hop_length, zero_dc
        self.transform = STFT(n_fft, hop_length, window, normalized)
        chunk = round(self.segment_seconds * self.sample_rate)
        if chunk < n_fft:
            raise ValueError(
                f"a chunk of {self.segment_seconds:g} s has {chunk} samples, a window {n_fft} "
                "(n_fft): lengthen segment_seconds, or chunk_seconds if it is given"
            )

    @abstractmethod
    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra.

        Args:
            mixture: Spectrum of the mixture, shape (B, 2 C, F, N), float32.

        Returns:
            Spectra of the sources, shape (B, S, 2 C, F, N).
        """

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        estimates = self.spectra(self.network_input(mixture)).float()
        # (B, S, 2 C, F, N) -> (B, S, C, F, N)
        real, imaginary = estimates.unflatten(2, (-1, 2)).unbind(3)
        complex_spectra = torch.complex(real, imaginary)
        if self.zero_dc:
            complex_spectra = complex_spectra.index_fill(
                3, torch.zeros(1, dtype=torch.long, device=mixture.device), 0
            )
        return self.transform.inverse(complex_spectra, mixture.shape[-1]).to(mixture.dtype)

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to its spectrum (B, 2 C, F, N)."""
        spectrum = torch.view_as_real(self.transform(mixture))  # (B, C, F, N, 2)
        return spectrum.movedim(4, 2).flatten(1, 2)

    def network_forward(self, features: Tensor) -> Tensor:
        """Map a spectrum (B, 2 C, F, N) to the sources' (B, S, 2 C, F, N)."""
        return self.spectra(features)

    def lengthened(self, mixture: Tensor, frames: int, multiple: int) -> Tensor:
        """Append silence to a mixture (B, C, T), so that it has a multiple of so many frames.

        Args:
            mixture: Waveform.
            frames: Frames that it has at least.
            multiple: Divisor of the number of frames.
        """
        frames += -frames % multiple
        silence = (frames - 1) * self.hop_length - mixture.shape[-1]
        return functional.pad(mixture, (0, silence))


def check_bins(n_fft: int, hop_length: int, bins: int) -> None:
    """Raise ``ValueError`` unless a spectrum has so many bins and overlapping frames."""
    if bins > n_fft // 2 + 1 or 2 * hop_length >= n_fft:
        raise ValueError(
            f"n_fft is {n_fft} with {bins} bins and a hop_length of {hop_length}: use at most "
            f"{n_fft // 2 + 1} bins and a hop_length below {n_fft / 2:g}"
        )


def by_frame(spectrum: Tensor) -> Tensor:
    """Map a spectrum (B, 2 C, F, N) to one row per frame, (B N, F, 2 C)."""
    return spectrum.permute(0, 3, 2, 1).flatten(0, 1)


def masked(mask: Tensor, spectrum: Tensor, frames: int) -> Tensor:
    """Multiply a complex mask and a spectrum, in full precision.

    Args:
        mask: Shape (B N, F, 2 C).
        spectrum: Same shape, by ``by_frame``.
        frames: N.

    Returns:
        Spectrum, shape (B, 2 C, F, N).
    """
    pairs = (rows.unflatten(2, (-1, 2)) for rows in (mask.float(), spectrum))
    product: Tensor = complex_product(*pairs).flatten(2).unflatten(0, (-1, frames))
    return product.permute(0, 3, 2, 1)  # (B, N, F, 2 C) -> (B, 2 C, F, N)


def complex_product(masks: Tensor, spectrum: Tensor) -> Tensor:
    """Multiply complex numbers, given as real tensors with the last axis real, imaginary.

    Written out, because exported graphs have no complex tensors.
    """
    (a, b), (c, d) = masks.unbind(-1), spectrum.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), -1)
