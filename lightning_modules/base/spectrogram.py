"""What all models of magnitude spectrograms share: STFT, masks, Wiener filter, inverse STFT."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.base.separator import SourceSeparator
from lightning_modules.layers.masks import masks
from lightning_modules.layers.wiener import wiener

Mask = Literal["none", "ratio", "binary"]
Scale = Literal["linear", "db"]

# Where the decibel scale begins, under the magnitude of a full-scale sine.
_RANGE_DB = 80


class SpectrogramSeparator(SourceSeparator):
    """STFT, a network on magnitudes, inverse STFT with the mixture's phase.

    Magnitudes are linear by default. A sum of sources is nearly a sum of their
    linear magnitudes, and an L1 distance between them weighs a bin by how much
    of it is heard; in decibels neither holds, but quiet bins get a say, which
    can help where a source is faint. The decibel scale here is
    ``20 log10(1 + |X| / floor)``: zero for silence, so that a ReLU output can
    reach it, and equal to the usual one well above the floor.

    Args:
        sources: Names of the sources, in the order of the estimates.
        n_fft: Length of the STFT's Hann window, samples.
        hop_length: Hop of the STFT, samples, at most three quarters of the window. Beyond half
            of it samples between two frames are heard faintly, and errors there are amplified.
        mask: ``none`` takes the network's magnitudes as they are. ``ratio`` gives
            each source its share of them, ``binary`` gives each bin to the
            strongest; estimates then add up to the mixture.
        magnitude_scale: ``linear`` or ``db``: what the network reads and writes.
        wiener_iterations: Iterations of the multichannel Wiener filter that refines what
            ``mask`` made; 0 leaves it out.
        wiener_residual: Let what the sources leave of the mixture take part in the filter,
            and drop it; for sources that are not all of the mixture.
        **kwargs: Arguments of ``SourceSeparator``.
    """

    changeable_hparams = SourceSeparator.changeable_hparams | {
        "mask",
        "wiener_iterations",
        "wiener_residual",
    }
    pad_mode: ClassVar[Literal["constant", "reflect"]] = "constant"
    """What is heard beyond the edges: silence, or the waveform in reverse."""

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
        if not 0 < 4 * hop_length <= 3 * n_fft:
            raise ValueError(
                f"hop_length is {hop_length} with n_fft {n_fft}: give 1 to {3 * n_fft // 4}, so "
                "that windows overlap enough to be undone"
            )
        if mask != "none" and len(sources) < 2:
            raise ValueError(
                f"mask is {mask!r} with one source, {sources[0]}: its estimate would be the "
                "mixture; use mask: none, or name a second source that holds the rest"
            )
        if wiener_iterations < 0:
            raise ValueError(f"wiener_iterations is {wiener_iterations}: give a number from 0 on")
        if wiener_iterations and len(sources) < 2 and not wiener_residual:
            raise ValueError(
                f"wiener_iterations is {wiener_iterations} with one source, {sources[0]}: the "
                "filter would give it the whole mixture; use wiener_residual: true, or name a "
                "second source that holds the rest"
            )
        self.n_fft, self.hop_length = n_fft, hop_length
        self.mask, self.magnitude_scale = mask, magnitude_scale
        self.wiener_iterations, self.wiener_residual = wiener_iterations, wiener_residual
        # Not stored: it follows from n_fft.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.window: Tensor
        self.floor = float(self.window.sum()) / 2 * 10 ** (-_RANGE_DB / 20)

    @abstractmethod
    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' magnitudes.

        Args:
            mixture: Non-negative magnitudes on the model's scale, shape (B, C, F, N).

        Returns:
            Non-negative magnitudes on the same scale, shape (B, S, C, F, N).
        """

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        spectrum = self.stft(mixture)
        estimates = self.estimate_magnitudes(spectrum)
        if self.mask == "none":
            # |estimate| with the mixture's phase; torch.sgn is X / |X|, and 0 where X is 0.
            spectra = estimates * torch.sgn(spectrum)[:, None]
        else:
            spectra = masks(estimates, self.mask) * spectrum[:, None]
        spectra = wiener(spectra, spectrum, self.wiener_iterations, residual=self.wiener_residual)
        return self.istft(spectra, mixture.shape[-1]).to(mixture.dtype)

    def estimate_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Estimate the sources' linear magnitudes from the mixture's spectrum.

        Args:
            spectrum: Complex spectra, shape (B, C, F, N).

        Returns:
            Non-negative magnitudes in full precision, shape (B, S, C, F, N).
        """
        estimated = self.magnitudes(self.input_magnitudes(spectrum))
        # Masks and phase want full precision, whatever the network ran in.
        return self.from_scale(estimated.float())

    def input_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Magnitudes on the model's scale of complex spectra (B, C, F, N), for ``magnitudes``."""
        return self.to_scale(spectrum.abs())

    def network_input(self, mixture: Tensor) -> Tensor:
        """Magnitudes of a mixture (B, C, T), on the model's scale, shape (B, C, F, N)."""
        return self.input_magnitudes(self.stft(mixture))

    def network_forward(self, read: Tensor) -> Tensor:
        """Estimate magnitudes (B, S, C, F, N) from (B, C, F, N), both on the model's scale."""
        return self.magnitudes(read)

    def stft(self, waveform: Tensor) -> Tensor:
        """Transform waveforms.

        Frame n is centred on sample n ``hop_length``; the edges are padded as
        ``pad_mode`` tells, or with zeros where a waveform is too short to be
        reflected, so that any length is fine. Magnitudes are not normalised, as in
        librosa: a full-scale sine has half the window's sum. (Scaled to about 1
        they lie so far under a ReLU output's first values that an L1 loss can
        drive all of it below zero, from where no gradient brings it back.)

        Args:
            waveform: Waveforms, shape (..., T).

        Returns:
            Complex spectra, shape (..., F, N), F = n_fft // 2 + 1, N = T // hop_length + 1,
            and one frame more where the hop is half the window or longer.
        """
        # Such hops leave the last samples to one frame's tail, by the square of which
        # the inverse would divide: one frame more covers them.
        extra = self.hop_length if 2 * self.hop_length >= self.n_fft else 0
        flat = waveform.reshape(-1, waveform.shape[-1]).float()  # (..., T) -> (n, T)
        edge = self.n_fft // 2
        # Asked in this order, so that an exported program of silent edges takes any length.
        reflected = self.pad_mode == "reflect" and flat.shape[-1] > edge + extra
        mode = "reflect" if reflected else "constant"
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                nn.functional.pad(flat, (edge, edge + extra), mode=mode),
                self.n_fft,
                self.hop_length,
                window=self.window,
                center=False,
                return_complex=True,
            )
        return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[-2:])

    def whole_frames(self, waveform: Tensor) -> Tensor:
        """Transform waveforms, and keep the frames that do not reach over an edge.

        Training on a few frames wants them as they are in the middle of a song.

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
        """Transform spectra back.

        Args:
            spectra: Complex spectra, shape (..., F, N).
            samples: Length of the waveforms.

        Returns:
            Waveforms, shape (..., samples).
        """
        flat = spectra.reshape(-1, *spectra.shape[-2:])  # (..., F, N) -> (n, F, N)
        with torch.autocast(spectra.device.type, enabled=False):
            if torch.compiler.is_exporting():
                waveform = overlap_added(flat, self.window, self.hop_length, samples)
            else:
                waveform = torch.istft(
                    flat,
                    self.n_fft,
                    self.hop_length,
                    window=self.window,
                    center=True,
                    length=samples,
                )
        return waveform.reshape(*spectra.shape[:-2], samples)

    def to_scale(self, magnitudes: Tensor) -> Tensor:
        """Bring linear magnitudes to the scale that the network works on."""
        if self.magnitude_scale == "linear":
            return magnitudes
        return 20 * torch.log10(1 + magnitudes / self.floor)

    def from_scale(self, magnitudes: Tensor) -> Tensor:
        """Bring the network's magnitudes back to the linear scale."""
        if self.magnitude_scale == "linear":
            return magnitudes
        return self.floor * (10 ** (magnitudes / 20) - 1)


def overlap_added(spectra: Tensor, window: Tensor, hop_length: int, samples: int) -> Tensor:
    """What ``torch.istft`` computes, in parts that exported programs have for any length.

    Griffin and Lim 1984, "Signal Estimation from Modified Short-Time Fourier Transform",
    equation 6: windowed frames are added up and divided by the sum of the squared windows.

    Args:
        spectra: Complex spectra, shape (n, F, N); frame 0 is centred on sample 0.
        window: The window, shape (n_fft,).
        hop_length: Distance of two frames, samples.
        samples: Length of the waveforms.

    Returns:
        Waveforms, shape (n, samples).
    """
    n_fft, number = len(window), spectra.shape[-1]
    frames = torch.fft.irfft(spectra, n_fft, dim=1) * window[:, None]  # (n, n_fft, N)
    squares = window.square()[None, :, None].expand(1, -1, number)
    padded = (1, (number - 1) * hop_length + n_fft)
    added, weights = (
        nn.functional.fold(part, padded, (1, n_fft), stride=(1, hop_length)).flatten(1)
        for part in (frames, squares)
    )
    first = n_fft // 2
    return added.narrow(-1, first, samples) / weights.narrow(-1, first, samples)
