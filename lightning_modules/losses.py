"""Losses between estimates and targets, each a class that a config names by ``class_path``.

All map estimates and targets to one number for each example and source, so that a model can log
its sources apart; ``total`` makes of these what is minimised. Below, y is a target, y^ its
estimate, e = y^ - y, and means are over channels and samples. All are finite for silence, and so
are their gradients.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.signal
import torch
from torch import Tensor, nn

from datamodules.augmentations.filters import HighShelf, PeakingEqualizer
from datamodules.tracks.sources import check_sources

# Added to powers and amplitudes that are divided by, or whose logarithm is taken: -80 dB in power.
_EPS = 1e-8


class SourceLoss(nn.Module, ABC):
    """What every loss can do.

    Attributes:
        sample_rate: Sample rate of what is compared, Hz; the model sets its own.
    """

    sample_rate: int = 44100

    def forward(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Compare estimates with targets, in single precision at least.

        Args:
            estimates: Estimated waveforms, shape (B, S, C, T). Losses that look at no spectrum
                compare anything else, too, such as magnitudes (B, S, C, F, N).
            targets: What they should be, same shape.
            mixture: What they were estimated from, shape (B, C, ...).

        Returns:
            The loss of each example and source, shape (B, S).

        Raises:
            ValueError: The shapes are not as described.
        """
        if estimates.shape != targets.shape:
            raise ValueError(
                f"estimates have shape {tuple(estimates.shape)}, targets {tuple(targets.shape)}: "
                "the same shape was expected, (batch, sources, channels, samples)"
            )
        with torch.autocast(estimates.device.type, enabled=False):
            return self.distances(
                *(
                    signals.to(torch.promote_types(signals.dtype, torch.float32))
                    for signals in (estimates, targets, mixture)
                )
            )

    @abstractmethod
    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S); arguments as of ``forward``."""

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What is minimised.

        Args:
            losses: Loss of each of the model's sources by name, scalars.

        Returns:
            Their mean, a scalar.
        """
        return torch.stack(list(losses.values())).mean()


# ---------------------------------------------------------------- sample by sample


class L1(SourceLoss):
    """Mean absolute error, ``mean |e|``."""

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        return _mean((estimates - targets).abs())


class MSE(SourceLoss):
    """Mean squared error, ``mean e^2``."""

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        return _power(estimates - targets)


class LogL1(SourceLoss):
    """Mean absolute error in decibels, ``10 log10(mean |e| + 1e-8)``.

    Gusó, Pons, Pascual and Serrà 2022, "On loss functions and evaluation metrics for music source
    separation", logL1time; there the mean is over a batch, here over an example, so that quiet
    examples count as much as loud ones.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, dB, shape (B, S)."""
        return _decibels(_mean((estimates - targets).abs()) + _EPS)


class NegativeSDR(SourceLoss):
    """Negative ratio of signal to distortion, ``-10 log10((mean y^2 + eps) / (mean e^2 + eps))``.

    Vincent, Gribonval and Févotte 2006, "Performance measurement in blind audio source
    separation", with all distortion in one term, as the Music Demixing Challenge 2021 scores
    (``usdr``). For a silent target it is the level of the estimate above -80 dB.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, dB, shape (B, S)."""
        return -_ratio_db(_power(targets), _power(estimates - targets))


class NegativeSISDR(SourceLoss):
    """Negative SDR of the target as loud as it is in the estimate.

    ``-10 log10((mean (a y)^2 + eps) / (mean (a y - y^)^2 + eps))``: SI-SDR of Le Roux, Wisdom,
    Erdogan and Hershey 2019, "SDR - half-baked or well done?", equation 5, with
    ``a = mean(y^ y) / (mean y^2 + eps)``, one for all channels; means are not taken off first.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, dB, shape (B, S)."""
        scale = _mean(estimates * targets) / (_power(targets) + _EPS)
        scaled = scale[..., None, None] * targets
        return -_ratio_db(_power(scaled), _power(scaled - estimates))


# ------------------------------------------------------------------ spectra


class SpectralRMSE(SourceLoss):
    """Root mean squared error of complex spectra, ``sqrt(mean (Re E^2, Im E^2) + 1e-12)``.

    Tong et al. 2024, "SCNet: sparse compression network for music source separation"; as in the
    authors' code without a window and with spectra divided by the root of ``n_fft``.

    Args:
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples.
    """

    def __init__(self, n_fft: int = 4096, hop_length: int = 1024) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        # Not in checkpoints: a model is loaded without its loss.
        self.register_buffer("window", torch.full((n_fft,), n_fft**-0.5), persistent=False)
        self.window: Tensor

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        # The transform is linear: one of the error does for two.
        errors = _stft(estimates - targets, self.n_fft, self.hop_length, self.window)
        return (_power(torch.view_as_real(errors)) + 1e-12).sqrt()


class MultiResolutionSTFT(SourceLoss):
    """Spectral convergence plus logarithmic distance of magnitudes, mean over resolutions.

    ``|| |Y| - |Y^| || / || |Y| || + mean |ln |Y| - ln |Y^||``: Yamamoto, Song and Kim 2020,
    "Parallel WaveGAN: a fast waveform generation model based on generative adversarial networks
    with multi-resolution spectrogram", equations 3 to 6, whose resolutions are the defaults.
    Magnitudes are not below ``sqrt(1e-8)``.

    Args:
        n_ffts: Length of the transform at each resolution, samples.
        hop_lengths: Hop at each resolution, samples.
        window_lengths: Length of the Hann window at each resolution, samples.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hop_lengths: Sequence[int] = (120, 240, 50),
        window_lengths: Sequence[int] = (600, 1200, 240),
    ) -> None:
        super().__init__()
        matched = 0 < len(n_ffts) == len(hop_lengths) == len(window_lengths)
        if not matched or any(map(operator.gt, window_lengths, n_ffts)):
            raise ValueError(
                f"n_ffts are {list(n_ffts)}, hop_lengths {list(hop_lengths)}, window_lengths "
                f"{list(window_lengths)}: give one of each for every resolution, and no window "
                "longer than its transform"
            )
        self.resolutions = list(zip(n_ffts, hop_lengths, strict=True))
        self.windows = _Windows(window_lengths)

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        parts = []
        for (n_fft, hop), window in zip(self.resolutions, self.windows.buffers(), strict=True):
            found, wanted = (
                _stft(signals, n_fft, hop, window).abs().square().clamp_min(_EPS).sqrt()
                for signals in (estimates, targets)
            )
            # Unlike a root, a norm of zero has a gradient here.
            convergence = found.sub(wanted).flatten(2).norm(dim=2) / wanted.flatten(2).norm(dim=2)
            parts.append(convergence + _mean((found.log() - wanted.log()).abs()))
        return torch.stack(parts).mean(0)


class MultiResolutionComplexSTFT(SourceLoss):
    """Mean absolute error of waveforms, and of complex spectra at several resolutions.

    ``mean |e| + weight * sum over resolutions of mean |E|``: Lu, Wang, Kong and Hung 2024, "Music
    source separation with band-split RoPE transformer", whose windows and hop are the defaults.

    Args:
        window_lengths: Length of the Hann window at each resolution, samples.
        hop_length: Hop at all of them, samples.
        n_fft: Length of the transform where the window is not longer, samples.
        weight: Weight of the spectra.
    """

    def __init__(
        self,
        window_lengths: Sequence[int] = (4096, 2048, 1024, 512, 256),
        hop_length: int = 147,
        n_fft: int = 2048,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.hop_length, self.n_fft, self.weight = hop_length, n_fft, weight
        self.windows = _Windows(window_lengths)

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        errors = estimates - targets
        loss = _mean(errors.abs())
        for window in self.windows.buffers():
            spectra = _stft(errors, max(self.n_fft, len(window)), self.hop_length, window)
            loss = loss + self.weight * _mean(spectra.abs())
        return loss


class LogWMSE(SourceLoss):
    """Logarithm of the mean squared error as it is heard, relative to the mixture.

    ``4 ln(mean (w * e / r)^2 + 1e-8)``, mean over channels, with w the frequency weighting of
    ``hearing`` and r the root mean square of ``w * mixture`` in the channel; weighted errors under
    -68 dB of r count as none. Jordal 2023, package ``log-wmse-audio-quality``, and Land 2024,
    ``torch-log-wmse``, whose value for a silent mixture is taken over.
    """

    # Of the weighted error relative to the mixture.
    _INAUDIBLE = 10 ** (-68 / 20)

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The loss of each example and source, shape (B, S)."""
        level = self._heard(mixture).square().mean(-1, keepdim=True).sqrt()  # (B, C, 1)
        errors = self._heard(estimates - targets) / (level[:, None] + _EPS)
        errors = torch.where(errors.abs() < self._INAUDIBLE, 0.0, errors)
        return 4 * (errors.square().mean(-1) + _EPS).log().mean(-1)  # (B, S, C, T) -> (B, S)

    def _heard(self, waveforms: Tensor) -> Tensor:
        """Filter waveforms (..., T) by the weighting, without delay."""
        samples = waveforms.shape[-1]
        # A tenth of a second of silence, so that the end is not heard at the beginning.
        size = scipy.fft.next_fast_len(samples + self.sample_rate // 10, real=True)
        weights = hearing(size, self.sample_rate).to(waveforms)
        filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms, size) * weights, size)
        return filtered[..., :samples]


@lru_cache(maxsize=8)
def hearing(size: int, sample_rate: int) -> Tensor:
    """Weight of frequencies in ``LogWMSE``, roughly as sensitive as hearing is.

    After Fenton and Lee 2017, "Alternative weighting filters for multi-track program loudness
    measurement", as Jordal's package has it: at 44.1 kHz a high shelf of 5 dB at 1500 Hz, a
    peak of 2.5 dB at 500 Hz (both of the biquad cookbook), a Butterworth high-pass of second
    order at 120 Hz, and a low-pass of first order at 10 kHz twice. Nothing above 22,050 Hz counts.

    Args:
        size: Length of the transform, samples.
        sample_rate: Hz.

    Returns:
        Amplitude factors of its bins, float32, shape (size // 2 + 1,).
    """
    rate = 44100
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate).clip(max=rate / 2)
    factors = np.ones(len(frequencies))
    for kind, gain_db, centre_hz, quality in (
        (HighShelf, 5.0, 1500.0, math.sqrt(0.5)),
        (PeakingEqualizer, 2.5, 500.0, 1.5 * math.sqrt(0.5)),
    ):
        angular = np.array(2 * math.pi * centre_hz / rate)
        biquad = kind.coefficients(
            np.array(10 ** (gain_db / 40)), np.cos(angular), np.sin(angular) / (2 * quality)
        )
        _, response = scipy.signal.freqz(biquad[:3], biquad[3:], frequencies, fs=rate)
        factors *= np.abs(response)
    high = scipy.signal.butter(2, 120, "highpass", output="sos", fs=rate)
    low = scipy.signal.butter(1, 10000, "lowpass", output="sos", fs=rate)
    for sections in (high, low, low):
        factors *= np.abs(scipy.signal.freqz_sos(sections, frequencies, fs=rate)[1])
    return torch.from_numpy(factors.astype(np.float32))


# ------------------------------------------------------------------ sources


class AlphaWeighted(SourceLoss):
    """Sum of the sources' losses, each times its alpha (Oh, Kim and Yun 2018, equation 12).

    Args:
        loss_function: The loss of a source.
        alphas: Weight of each source, by name; they add up to one.
    """

    def __init__(self, loss_function: SourceLoss, alphas: dict[str, float]) -> None:
        super().__init__()
        self.loss_function, self.alphas = loss_function, alphas

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """The unweighted loss of each example and source, shape (B, S)."""
        losses: Tensor = self.loss_function(estimates, targets, mixture)
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum; losses are scalars by name."""
        values = torch.stack(list(losses.values()))
        return (alpha_weights(self.alphas, list(losses)).to(values) * values).sum()


def alpha_weights(alphas: Mapping[str, float], sources: Sequence[str]) -> Tensor:
    """Put the weights of sources in order.

    Args:
        alphas: Weight of each source, by name.
        sources: Names of the model's sources.

    Returns:
        Weights in the order of the sources, float32, shape (S,).

    Raises:
        ValueError: A name is unknown or left out, or the weights do not add up to one.
    """
    check_sources(list(alphas), sources, "alphas")
    total = sum(alphas.values())
    if not abs(total - 1) <= 1e-6 or min(alphas.values()) < 0:
        raise ValueError(
            f"alphas are {dict(alphas)} and add up to {total:g}: give weights from 0 on that "
            "add up to 1"
        )
    return torch.tensor([float(alphas[name]) for name in sources])


# -------------------------------------------------------------------- parts


class _Windows(nn.Module):
    """Hann windows that go where the loss goes, and into no checkpoint."""

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__()
        for number, length in enumerate(lengths):
            self.register_buffer(f"window_{number}", torch.hann_window(length), persistent=False)


def _stft(waveforms: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Complex spectra (..., F, N) of waveforms (..., T), edges reflected if they can be."""
    flat = waveforms.reshape(-1, waveforms.shape[-1])  # (..., T) -> (n, T)
    mode = "reflect" if flat.shape[-1] > n_fft // 2 else "constant"
    spectra = torch.stft(
        nn.functional.pad(flat, (n_fft // 2, n_fft // 2), mode=mode),
        n_fft,
        hop_length,
        win_length=len(window),
        window=window.to(flat),
        center=False,
        return_complex=True,
    )
    return spectra.reshape(*waveforms.shape[:-1], *spectra.shape[-2:])


def _power(signals: Tensor) -> Tensor:
    return _mean(signals.square())


def _mean(values: Tensor) -> Tensor:
    """Mean of each example and source: (B, S, ...) -> (B, S)."""
    return values.mean(tuple(range(2, values.ndim)))


def _ratio_db(signal: Tensor, distortion: Tensor) -> Tensor:
    return _decibels((signal + _EPS) / (distortion + _EPS))


def _decibels(power: Tensor) -> Tensor:
    return 10 * power.log10()
