"""Hybrid Demucs: a waveform U-Net and a spectrogram U-Net with a shared bottleneck.

Defossez 2021, "Hybrid Spectrogram and Waveform Source Separation", arXiv:2111.03600. ``network``
is torchaudio's ``HDemucs``, with the same state dict; ``interop.demucs`` loads published weights.
With four sources in stereo there are 83,639,368 parameters (our count).

Departs from the paper: the loss has no penalty on singular values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchaudio.models import HDemucs

from lightning_modules.architectures.demucs import DemucsSeparator

# Levels of torchaudio's three networks, by FFT size.
_DEPTHS = {1024: 5, 2048: 6, 4096: 6}
# Prefix of weights that torchaudio's network has but does not use; the package has none there.
UNUSED = "time_encoder.4.norm1."


class HybridDemucs(DemucsSeparator):
    """Hybrid Demucs for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first level, at least 4; doubled at each further level.
        n_fft: Length of the STFT window, samples: 4096 for 44.1 kHz, 2048 for 16 to 32 kHz,
            1024, with one level less, for about 8 kHz.
        **kwargs: Arguments of ``DemucsSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"channels": 4, "n_fft": 1024}

    def __init__(
        self, sources: list[str], channels: int = 48, n_fft: int = 4096, **kwargs: Any
    ) -> None:
        super().__init__(sources, **kwargs)
        if n_fft not in _DEPTHS or channels < 4:
            raise ValueError(
                f"n_fft is {n_fft} and channels {channels}: use an n_fft of "
                f"{', '.join(map(str, _DEPTHS))} and channels >= 4"
            )
        # Residual branches are scaled as in the package demucs; torchaudio's default is 1e-4.
        self.network: nn.Module = HDemucs(
            self.sources,
            self.audio_channels,
            channels,
            nfft=n_fft,
            depth=_DEPTHS[n_fft],
            dconv_init=1e-3,
        )
        for name, weights in self.network.named_parameters():
            if name.startswith(UNUSED):
                weights.requires_grad_(False)  # DDP would wait for their gradients
        # The network reflect-pads 3/8 of a window at both ends plus up to a hop (n_fft / 4) to fill
        # the last frame; reflection needs more samples than it pads.
        self.shortest = 5 * n_fft // 8

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate mixtures (B, C, T) into estimates (B, S, C, T), ordered as ``self.sources``."""
        samples = mixture.shape[-1]
        padded = nn.functional.pad(mixture, (0, max(0, self.shortest - samples)))
        estimates: Tensor = self.network(padded.float())  # its FFTs need single precision
        return estimates[..., :samples].to(mixture.dtype)
