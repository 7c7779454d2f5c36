"""Training losses, selected in a config by ``class_path``.

A loss maps estimates and targets to one value per example and source, so that sources are logged
separately; ``total`` reduces the values of the sources to the minimised scalar. Below, y is a
target, y^ its estimate, e = y^ - y, and means are over channels and samples. All losses and their
gradients are finite for silence.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import scipy.fft
import torch
from torch import Tensor, nn

from datamodules.tracks.sources import check_sources
from lightning_modules.layers.checkpointing import checkpointed
from lightning_modules.layers.hearing import hearing

# Added to powers and amplitudes before division or logarithm; -80 dB in power.
_EPS = 1e-8


class SourceLoss(nn.Module, ABC):
    """Base class of losses.

    Attributes:
        sample_rate: Sample rate of the waveforms, Hz; set by the model.
    """

    sample_rate: int = 44100

    def forward(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Compute the loss in single precision or better.

        Args:
            estimates: Estimated waveforms, shape (B, S, C, T). Losses without an STFT also accept
                other data, such as magnitudes (B, S, C, F, N).
            targets: Target waveforms, same shape.
            mixture: The mixture, shape (B, C, ...).

        Returns:
            Loss per example and source, shape (B, S).

        Raises:
            ValueError: The shapes of estimates and targets differ.
        """
        if estimates.shape != targets.shape:
            raise ValueError(
                f"estimates have shape {tuple(estimates.shape)}, targets {tuple(targets.shape)}: "
                "the same shape was expected, (batch, sources, channels, samples)"
            )
        precise = [
            signals.to(torch.promote_types(signals.dtype, torch.float32))
            for signals in (estimates, targets, mixture)
        ]
        with torch.autocast(estimates.device.type, enabled=False):
            return self.distances(*precise)

    @abstractmethod
    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S); arguments as in ``forward``."""

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the losses of the model's sources, scalars by name."""
        return torch.stack(list(losses.values())).mean()


# ---------------------------------------------------------------- waveforms


class L1(SourceLoss):
    """Mean absolute error, ``mean |e|``."""

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        return _mean((estimates - targets).abs())


class MSE(SourceLoss):
    """Mean squared error, ``mean e^2``."""

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        return _power(estimates - targets)


class LogL1(SourceLoss):
    """Mean absolute error in decibels, ``10 log10(mean |e| + 1e-8)``.

    Gusó, Pons, Pascual and Serrà 2022, "On loss functions and evaluation metrics for music source
    separation", logL1time; the mean is over an example instead of a batch, so that quiet examples
    count as much as loud ones.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, dB, shape (B, S)."""
        return 10 * (_mean((estimates - targets).abs()) + _EPS).log10()


class NegativeSDR(SourceLoss):
    """Negative signal-to-distortion ratio, ``-10 log10((mean y^2 + eps) / (mean e^2 + eps))``.

    Vincent, Gribonval and Févotte 2006, "Performance measurement in blind audio source
    separation", with all distortion in one term, as in the Music Demixing Challenge 2021
    (``usdr``). For a silent target it is the level of the estimate above -80 dB.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, dB, shape (B, S)."""
        return -_ratio_db(_power(targets), _power(estimates - targets))


class NegativeSISDR(SourceLoss):
    """Negative scale-invariant SDR.

    ``-10 log10((mean (a y)^2 + eps) / (mean (a y - y^)^2 + eps))``: SI-SDR of Le Roux, Wisdom,
    Erdogan and Hershey 2019, "SDR - half-baked or well done?", equation 5, with
    ``a = mean(y^ y) / (mean y^2 + eps)``, shared by all channels; means are not subtracted.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, dB, shape (B, S)."""
        scale = _mean(estimates * targets) / (_power(targets) + _EPS)
        scaled = scale[..., None, None] * targets
        return -_ratio_db(_power(scaled), _power(scaled - estimates))


# ------------------------------------------------------------------ spectra


class SpectralRMSE(SourceLoss):
    """Root mean squared error of complex spectra, ``sqrt(mean (Re E^2, Im E^2) + 1e-12)``.

    Tong et al. 2024, "SCNet: sparse compression network for music source separation"; as in the
    authors' code, with a rectangular window and spectra divided by the root of ``n_fft``.

    Args:
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples.
    """

    def __init__(self, n_fft: int = 4096, hop_length: int = 1024) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        window = torch.full((self.n_fft,), self.n_fft**-0.5)
        # The STFT is linear: one of the error replaces two.
        errors = _stft(estimates - targets, self.n_fft, self.hop_length, window)
        return (_power(torch.view_as_real(errors)) + 1e-12).sqrt()


class SpectralL1(SourceLoss):
    """Mean absolute error of waveforms and of complex spectra's parts.

    ``mean |e| + mean |Re E| + mean |Im E|``: Luo and Yu 2023, "Music source separation with
    band-split RNN", with means for the paper's norms, and with the spectra of the waveforms.

    Args:
        n_fft: Length of a frame and of its Hann window, samples.
        hop_length: Hop between frames, samples.
    """

    def __init__(self, n_fft: int = 2048, hop_length: int = 512) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        errors = estimates - targets
        spectra = _stft(errors, self.n_fft, self.hop_length, torch.hann_window(self.n_fft))
        # A mean over both parts is half the sum of their means.
        return _mean(errors.abs()) + 2 * _mean(torch.view_as_real(spectra).abs())


class MultiResolutionSTFT(SourceLoss):
    """Spectral convergence plus logarithmic distance of magnitudes, mean over resolutions.

    ``|| |Y| - |Y^| || / || |Y| || + mean |ln |Y| - ln |Y^||``: Yamamoto, Song and Kim 2020,
    "Parallel WaveGAN: a fast waveform generation model based on generative adversarial networks
    with multi-resolution spectrogram", equations 3 to 6; its resolutions are the defaults.
    Magnitudes are clamped to at least ``sqrt(1e-8)``.

    Args:
        n_ffts: FFT length per resolution, samples.
        hop_lengths: Hop per resolution, samples.
        window_lengths: Length of the Hann window per resolution, samples.
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
                f"{list(window_lengths)}: give one of each per resolution, and no window "
                "longer than its FFT"
            )
        self.resolutions = list(zip(n_ffts, hop_lengths, window_lengths, strict=True))

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        parts = []
        for n_fft, hop_length, window_length in self.resolutions:
            window = torch.hann_window(window_length)
            found, target = (
                _stft(signals, n_fft, hop_length, window).abs().square().clamp_min(_EPS).sqrt()
                for signals in (estimates, targets)
            )
            # The gradient of a norm is finite at zero, that of a root is not.
            convergence = found.sub(target).flatten(2).norm(dim=2) / target.flatten(2).norm(dim=2)
            parts.append(convergence + _mean((found.log() - target.log()).abs()))
        return torch.stack(parts).mean(0)


class MultiResolutionComplexSTFT(SourceLoss):
    """Mean absolute error of waveforms and of complex spectra at several resolutions.

    ``mean |e| + weight * sum over resolutions of mean |E|``: Lu, Wang, Kong and Hung 2024, "Music
    source separation with band-split RoPE transformer"; its windows and hop are the defaults.

    Args:
        window_lengths: Length of the Hann window per resolution, samples.
        hop_length: Hop at all resolutions, samples.
        n_fft: FFT length, samples; the window's if that is longer.
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
        self.window_lengths, self.hop_length = window_lengths, hop_length
        self.n_fft, self.weight = n_fft, weight

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        errors = estimates - targets
        loss = _mean(errors.abs())
        for length in self.window_lengths:
            # Frames and spectra of all resolutions would take as much memory as a large network.
            loss = loss + checkpointed(self, partial(self._distance, length), errors)
        return loss

    def _distance(self, window_length: int, errors: Tensor) -> Tensor:
        window, n_fft = torch.hann_window(window_length), max(self.n_fft, window_length)
        spectra = _stft(errors, n_fft, self.hop_length, window)
        return self.weight * _mean(spectra.abs())


class LogWMSE(SourceLoss):
    """Logarithm of the frequency-weighted mean squared error, relative to the mixture.

    ``4 ln(mean (w * e / r)^2 + 1e-8)``, averaged over channels, with the filter w of ``hearing``
    and the root mean square r of ``w * mixture`` per channel; weighted errors below -68 dB of r
    count as zero. Jordal 2023, package ``log-wmse-audio-quality``, and Land 2024,
    ``torch-log-wmse``, with the latter's value for a silent mixture.
    """

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, shape (B, S)."""
        level = self._weighted(mixture).square().mean(-1, keepdim=True).sqrt()  # (B, C, 1)
        errors = self._weighted(estimates - targets) / (level[:, None] + _EPS)
        errors = torch.where(errors.abs() < 10 ** (-68 / 20), 0.0, errors)
        return 4 * (errors.square().mean(-1) + _EPS).log().mean(-1)  # (B, S, C, T) -> (B, S)

    def _weighted(self, waveforms: Tensor) -> Tensor:
        """Apply the frequency weighting to waveforms (..., T), without delay."""
        samples = waveforms.shape[-1]
        # Padding of 0.1 s against circular convolution.
        size = scipy.fft.next_fast_len(samples + self.sample_rate // 10, real=True)
        weights = hearing(size, self.sample_rate).to(waveforms)
        filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveforms, size) * weights, size)
        return filtered[..., :samples]


# ------------------------------------------------------------------ sources


class QuantileMasked(SourceLoss):
    """Another loss without its highest values in a batch, which may have wrong labels.

    Kim, Lee and Jung 2023, "Sound demixing challenge 2023 music demixing track technical report",
    loss masking: per source, examples whose loss is not below the quantile count as zero. Where no
    example is below it, as in a batch of one, all count. Validation uses all examples.

    Args:
        loss_function: The loss.
        quantile: Quantile over the batch of each rank. The authors keep half of the examples of
            data with wrong labels (0.5), MSST has 0.95 for all data.
    """

    def __init__(self, loss_function: SourceLoss, quantile: float = 0.95) -> None:
        super().__init__()
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile is {quantile}: give a number above 0, up to 1")
        self.loss_function, self.quantile = loss_function, quantile

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the loss per example and source, zero for masked ones, shape (B, S)."""
        losses: Tensor = self.loss_function(estimates, targets, mixture)
        if not self.training:
            return losses
        kept = losses < losses.detach().quantile(self.quantile, 0)
        return losses * (kept | ~kept.any(0))

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the total of the masked loss function."""
        return self.loss_function.total(losses)


class AlphaWeighted(SourceLoss):
    """Weighted sum of the sources' losses (Oh, Kim and Yun 2018, equation 12).

    Args:
        loss_function: Loss of a source.
        alphas: Weight per source, by name; they add up to one.
    """

    def __init__(self, loss_function: SourceLoss, alphas: dict[str, float]) -> None:
        super().__init__()
        self.loss_function, self.alphas = loss_function, alphas

    def distances(self, estimates: Tensor, targets: Tensor, mixture: Tensor) -> Tensor:
        """Return the unweighted loss per example and source, shape (B, S)."""
        losses: Tensor = self.loss_function(estimates, targets, mixture)
        return losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the losses, scalars by name."""
        values = torch.stack(list(losses.values()))
        return (alpha_weights(self.alphas, list(losses)).to(values) * values).sum()


def alpha_weights(alphas: Mapping[str, float], sources: Sequence[str]) -> Tensor:
    """Return weights by source in the order of the sources, float32, shape (S,).

    Raises:
        ValueError: A name is unknown or missing, or the weights do not add up to one.
    """
    check_sources(list(alphas), sources, "alphas")
    total = sum(alphas.values())
    if not abs(total - 1) <= 1e-6 or min(alphas.values()) < 0:
        raise ValueError(
            f"alphas are {dict(alphas)} and add up to {total:g}: give non-negative weights that "
            "add up to 1"
        )
    return torch.tensor([float(alphas[name]) for name in sources])


# -------------------------------------------------------------------- parts


def _stft(waveforms: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Tensor:
    """Compute spectra (..., F, N) of waveforms (..., T); edges are reflected if long enough."""
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
    """Mean per example and source: (B, S, ...) -> (B, S)."""
    return values.mean(tuple(range(2, values.ndim)))


def _ratio_db(signal: Tensor, distortion: Tensor) -> Tensor:
    return 10 * ((signal + _EPS) / (distortion + _EPS)).log10()
