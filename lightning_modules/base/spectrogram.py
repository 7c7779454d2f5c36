"""Base class of models of magnitude spectrograms: STFT, masks, Wiener filter, inverse STFT."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.waveform import SeparatorWithLoss
from lightning_modules.layers.masks import masks
from lightning_modules.layers.stft import STFT, PadMode
from lightning_modules.layers.wiener import wiener

Mask = Literal["none", "ratio", "binary"]
Scale = Literal["linear", "db"]

# Floor of the decibel scale, below the magnitude of a full-scale sine.
_RANGE_DB = 80


class SpectrogramSeparator(SeparatorWithLoss):
    """STFT, a network on magnitudes, inverse STFT with the mixture's phase.

    Magnitudes are linear by default: linear magnitudes of sources nearly add up to those of the
    mixture, and an L1 distance weights bins by loudness. The decibel scale,
    ``20 log10(1 + |X| / floor)``, gives quiet bins more weight, which can help with faint sources.
    It is zero for silence, so that a ReLU output can reach it, and equals the usual scale well
    above the floor.

    Args:
        sources: Names of the sources, in the order of the estimates.
        n_fft: Length of the STFT's Hann window, samples.
        hop_length: Hop of the STFT, samples, at most three quarters of the window. Beyond half
            the window, samples between two frames have low weight, and errors there are amplified.
        mask: ``none`` uses the network's magnitudes directly. ``ratio`` gives each source its
            share of the mixture, ``binary`` gives each bin to the strongest source; estimates
            then add up to the mixture.
        magnitude_scale: Scale of the network's input and output, ``linear`` or ``db``.
        wiener_iterations: Iterations of the multichannel Wiener filter after the mask; 0 disables
            it.
        wiener_residual: Add the residual of the mixture to the filter as a source that is not
            returned; for sources that do not add up to the mixture.
        **kwargs: Arguments of ``SeparatorWithLoss``. A ``loss_function`` compares the waveforms
            after mask and inverse STFT, without the Wiener filter, in place of the paper's loss.
    """

    changeable_hparams = SeparatorWithLoss.changeable_hparams.union(
        ("mask", "wiener_iterations", "wiener_residual")
    )
    pad_mode: ClassVar[PadMode] = "constant"
    """Padding of the STFT at the edges: zeros, or the reflected waveform."""

    def __init__(
        self,
        sources: list[str],
        n_fft: int = 2048,
        hop_length: int = 512,
        mask: Mask = "none",
        magnitude_scale: Scale = "linear",
        wiener_iterations: int = 0,
        wiener_residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if mask not in get_args(Mask):
            raise ValueError(f"mask is {mask!r}: give one of {', '.join(get_args(Mask))}")
        if magnitude_scale not in get_args(Scale):
            raise ValueError(f"magnitude_scale is {magnitude_scale!r}: give linear or db")
        if mask != "none" and len(sources) < 2:
            raise ValueError(
                f"mask is {mask!r} with one source, {sources[0]}: its estimate would be the "
                "mixture; use mask: none, or add a second source with the rest"
            )
        if mask == "binary" and self.loss_function is not None:
            raise ValueError(
                "a binary mask has no gradients for loss_function; use mask: ratio, or no "
                "loss_function"
            )
        if wiener_iterations < 0:
            raise ValueError(f"wiener_iterations is {wiener_iterations}: give 0 or more")
        if wiener_iterations and len(sources) < 2 and not wiener_residual:
            raise ValueError(
                f"wiener_iterations is {wiener_iterations} with one source, {sources[0]}: the "
                "filter would return the mixture; use wiener_residual: true, or add a second "
                "source with the rest"
            )
        self.n_fft, self.hop_length = n_fft, hop_length
        self.mask, self.magnitude_scale = mask, magnitude_scale
        self.wiener_iterations, self.wiener_residual = wiener_iterations, wiener_residual
        self.transform = STFT(n_fft, hop_length, pad_mode=self.pad_mode)
        self.floor = float(self.transform.window.sum()) / 2 * 10 ** (-_RANGE_DB / 20)

    @abstractmethod
    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' magnitudes.

        Args:
            mixture: Non-negative magnitudes on the model's scale, shape (B, C, F, N).

        Returns:
            Non-negative magnitudes on the same scale, shape (B, S, C, F, N).
        """

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of the paper; arguments and result are those of ``loss``."""
        raise NotImplementedError(f"{type(self).__name__} has no loss of its own")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of the paper, or the configured one of the waveforms."""
        if self.loss_function is None:
            return self.paper_loss(batch)
        spectra = self.masked(self.stft(batch.mixture))
        return self.compared(self.istft(spectra, batch.mixture.shape[-1]), batch)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        spectrum = self.stft(mixture)
        spectra = self.masked(spectrum)
        spectra = wiener(spectra, spectrum, self.wiener_iterations, residual=self.wiener_residual)
        return self.istft(spectra, mixture.shape[-1]).to(mixture.dtype)

    def masked(self, spectrum: Tensor) -> Tensor:
        """Estimate the sources' spectra, before the Wiener filter.

        Args:
            spectrum: Spectra of the mixture, complex, shape (B, C, F, N).

        Returns:
            Complex spectra, shape (B, S, C, F, N).
        """
        estimates = self.estimate_magnitudes(spectrum)
        if self.mask == "none":
            # Estimated magnitude, mixture's phase; torch.sgn is X / |X|, and 0 where X is 0.
            return estimates * torch.sgn(spectrum)[:, None]
        spectra: Tensor = masks(estimates, self.mask) * spectrum[:, None]
        return spectra

    def estimate_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Estimate the sources' linear magnitudes from the mixture's spectrum.

        Args:
            spectrum: Complex spectra, shape (B, C, F, N).

        Returns:
            Non-negative magnitudes in full precision, shape (B, S, C, F, N).
        """
        estimated = self.magnitudes(self.input_magnitudes(spectrum))
        # Masks and phase need full precision under autocast.
        return self.from_scale(estimated.float())

    def input_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Map complex spectra (B, C, F, N) to magnitudes on the model's scale."""
        return self.to_scale(spectrum.abs())

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to magnitudes (B, C, F, N) on the model's scale."""
        return self.input_magnitudes(self.stft(mixture))

    def network_forward(self, features: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to estimates (B, S, C, F, N), both on the model's scale."""
        return self.magnitudes(features)

    def stft(self, waveform: Tensor) -> Tensor:
        """Compute the STFT of waveforms of any length.

        See ``STFT``. Magnitudes are not normalised: scaled to about 1 they are so far below a ReLU
        output's initial values that an L1 loss can drive all outputs below zero, where gradients
        vanish.

        Args:
            waveform: Waveforms, shape (..., T).

        Returns:
            Complex spectra, shape (..., F, N).
        """
        spectrum: Tensor = self.transform(waveform)
        return spectrum

    def whole_frames(self, waveform: Tensor) -> Tensor:
        """Compute the STFT without frames that overlap an edge.

        Crops of a few frames then look like the middle of a song.

        Args:
            waveform: Waveforms, shape (..., T).

        Returns:
            Complex spectra, shape (..., F, N), N = 1 + (T - n_fft) // hop_length if half the
            window is a multiple of the hop; all frames if the waveform is shorter than one.
        """
        spectrum, samples = self.stft(waveform), waveform.shape[-1]
        first = math.ceil(self.n_fft // 2 / self.hop_length)
        last = (samples - self.n_fft // 2) // self.hop_length
        return spectrum if last < first else spectrum[..., first : last + 1]

    def istft(self, spectra: Tensor, samples: int) -> Tensor:
        """Compute the inverse STFT of complex spectra (..., F, N): waveforms (..., samples)."""
        return self.transform.inverse(spectra, samples)

    def to_scale(self, magnitudes: Tensor) -> Tensor:
        """Convert linear magnitudes to the network's scale."""
        if self.magnitude_scale == "linear":
            return magnitudes
        return 20 * torch.log10(1 + magnitudes / self.floor)

    def from_scale(self, magnitudes: Tensor) -> Tensor:
        """Convert magnitudes on the network's scale to linear ones."""
        if self.magnitude_scale == "linear":
            return magnitudes
        return self.floor * (10 ** (magnitudes / 20) - 1)
