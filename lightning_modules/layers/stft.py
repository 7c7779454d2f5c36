"""Short-time Fourier transform of waveforms of any length, and its inverse."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

# Beyond any use; checkpoints of others may contain anything.
_LARGEST_N_FFT = 2**17

Window = Literal["hann", "rectangular"]
PadMode = Literal["constant", "reflect"]


class STFT(nn.Module):
    """STFT with its inverse, in float32, also under autocast.

    Frame n is centred on sample n ``hop_length``.

    Args:
        n_fft: Length of a frame and of its window, samples.
        hop_length: Hop between frames, samples, at most three quarters of the window. Beyond half
            the window, samples between two frames have low weight, and errors there are amplified.
        window: ``hann`` (periodic) or ``rectangular``.
        normalized: Divide spectra by the root of ``n_fft``. Otherwise a full-scale sine has half
            the sum of the window, as in librosa.
        pad_mode: Padding at the edges: zeros (``constant``), or the reflected waveform, where it
            is long enough.

    Raises:
        ValueError: The FFT or the hop is too long, or not positive.
    """

    def __init__(
        self,
        n_fft: int,
        hop_length: int,
        window: Window = "hann",
        normalized: bool = False,
        pad_mode: PadMode = "reflect",
    ) -> None:
        super().__init__()
        if not 0 < n_fft <= _LARGEST_N_FFT:
            raise ValueError(f"n_fft is {n_fft}: give 1 to {_LARGEST_N_FFT}")
        if not 0 < 4 * hop_length <= 3 * n_fft:
            raise ValueError(
                f"hop_length is {hop_length} with n_fft {n_fft}: give 1 to {3 * n_fft // 4}, so "
                "that windows overlap enough for the inverse"
            )
        self.n_fft, self.hop_length = n_fft, hop_length
        self.normalized, self.pad_mode = normalized, pad_mode
        values = torch.hann_window(n_fft) if window == "hann" else torch.ones(n_fft)
        self.register_buffer("window", values, persistent=False)  # follows from n_fft
        self.window: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute spectra.

        Args:
            waveform: Waveforms, shape (..., T).

        Returns:
            Complex spectra, shape (..., F, N), F = n_fft // 2 + 1, N = T // hop_length + 1,
            and one frame more where the hop is half the window or longer.
        """
        # With such hops the last samples would be in the tail of one frame only, and the inverse
        # would divide by its square; one more frame covers them.
        extra = self.hop_length if 2 * self.hop_length >= self.n_fft else 0
        flat = waveform.reshape(-1, waveform.shape[-1]).float()  # (..., T) -> (n, T)
        n_fft, hop_length, edge = self.n_fft, self.hop_length, self.n_fft // 2
        # In this order, an exported program with constant padding accepts any length.
        reflected = self.pad_mode == "reflect" and flat.shape[-1] > edge + extra
        mode = "reflect" if reflected else "constant"
        with torch.autocast(waveform.device.type, enabled=False):
            padded = nn.functional.pad(flat, (edge, edge + extra), mode=mode)
            spectrum = torch.stft(
                padded, n_fft, hop_length, window=self.window, center=False,
                normalized=self.normalized, return_complex=True,
            )  # fmt: skip
        return spectrum.reshape(*waveform.shape[:-1], *spectrum.shape[-2:])

    def inverse(self, spectra: Tensor, samples: int) -> Tensor:
        """Map complex spectra (..., F, N) to waveforms (..., samples)."""
        flat = spectra.reshape(-1, *spectra.shape[-2:])  # (..., F, N) -> (n, F, N)
        n_fft, hop_length, window = self.n_fft, self.hop_length, self.window
        with torch.autocast(spectra.device.type, enabled=False):
            if torch.compiler.is_exporting():
                scaled = flat * n_fft**0.5 if self.normalized else flat
                waveform = inverse_stft(scaled, window, hop_length, samples)
            else:
                waveform = torch.istft(
                    flat, n_fft, hop_length, window=window, normalized=self.normalized,
                    length=samples,
                )  # fmt: skip
        return waveform.reshape(*spectra.shape[:-2], samples)


def inverse_stft(spectra: Tensor, window: Tensor, hop_length: int, samples: int) -> Tensor:
    """Compute ``torch.istft`` from operations that can be exported with a dynamic length.

    Griffin and Lim 1984, "Signal Estimation from Modified Short-Time Fourier Transform",
    equation 6: windowed frames are overlap-added and divided by the sum of squared windows.

    Args:
        spectra: Complex spectra, shape (n, F, N); frame 0 is centred on sample 0.
        window: The window, shape (n_fft,).
        hop_length: Hop, samples.
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


class FramePerHop(nn.Module):
    """STFT with one frame per hop, centred on it, and its inverse, in float32.

    A waveform of T samples has ceil(T / hop) frames, as many as convolutions with that stride have
    outputs. The hop is a quarter of the periodic Hann window; spectra are divided by the root of
    its length and lack the last bin.

    Args:
        n_fft: Length of a frame and of its window, samples; divisible by 8.

    Raises:
        ValueError: The length is too long, or not divisible.
    """

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        if not 0 < n_fft <= _LARGEST_N_FFT or n_fft % 8:
            raise ValueError(f"n_fft is {n_fft}: give a multiple of 8 up to {_LARGEST_N_FFT}")
        self.n_fft, self.hop_length = n_fft, n_fft // 4
        self.edge = (n_fft - self.hop_length) // 2
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.window: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """Map waveforms (B, C, T) to complex spectra (B, C, n_fft / 2, ceil(T / hop))."""
        missing = -waveform.shape[-1] % self.hop_length
        padded = _reflected(waveform.float(), self.edge, self.edge + missing).flatten(0, 1)
        with torch.autocast(waveform.device.type, enabled=False):
            spectra = torch.stft(
                padded, self.n_fft, self.hop_length, window=self.window, center=False,
                normalized=True, return_complex=True,
            )  # fmt: skip
        by_channel: Tensor = spectra[:, :-1].unflatten(0, waveform.shape[:2])
        return by_channel

    def inverse(self, spectra: Tensor, samples: int) -> Tensor:
        """Map complex spectra (..., n_fft / 2, N) to waveforms (..., samples)."""
        with torch.autocast(spectra.device.type, enabled=False):
            # The missing bin is zero.
            frames = torch.fft.irfft(spectra.movedim(-1, -2), self.n_fft, norm="ortho")
            frames = frames * (self.window / 1.5)  # squares of four overlapping windows add to 1.5
        quarters = frames.unflatten(-1, (4, self.hop_length))  # (..., N, 4, hop)
        added = sum(
            nn.functional.pad(quarters[..., quarter, :], (0, 0, quarter, 3 - quarter))
            for quarter in range(4)
        )
        assert isinstance(added, Tensor)
        return added.flatten(-2).narrow(-1, self.edge, samples)


def _reflected(waveform: Tensor, left: int, right: int) -> Tensor:
    """Extend waveforms (..., T) by their reflection; too short ones first by zeros."""
    lacking = max(0, max(left, right) + 1 - waveform.shape[-1])
    at_end = min(lacking, right)
    at_start = lacking - at_end
    longer = nn.functional.pad(waveform, (at_start, at_end))
    return nn.functional.pad(longer, (left - at_start, right - at_end), mode="reflect")
