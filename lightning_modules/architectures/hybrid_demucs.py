"""Hybrid Demucs: two U-Nets that meet, one on the waveform and one on its spectrum.

Defossez 2021, "Hybrid Spectrogram and Waveform Source Separation", arXiv:2111.03600, in the
network of torchaudio, whose weights go in and out of ``network`` as they are; ``demucs_package``
reads published ones. With four sources in stereo there are 83,639,368 parameters (our count).

Departs from the paper: there is no penalty on singular values, which it adds to the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchaudio.models import HDemucs

from lightning_modules.base.waveform import WaveformSeparator

# Levels of torchaudio's three networks, by the length of their window.
_DEPTHS = {1024: 5, 2048: 6, 4096: 6}
# By which the residual branches are scaled at first; torchaudio has a tenth of the package's.
_BRANCH_SCALE = 1e-3
# Weights that torchaudio has, and lets nothing through; the package has none there.
UNUSED = "time_encoder.4.norm1."


class HybridDemucs(WaveformSeparator):
    """Hybrid Demucs for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first level, 4 at least; each further one has twice as many.
        n_fft: Length of the window, samples; 4096 is meant for 44.1 kHz, 2048 for 16 to 32 kHz,
            and 1024, with a level less, for about 8 kHz.
        **kwargs: Arguments of ``WaveformSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"channels": 4, "n_fft": 1024}

    def __init__(
        self, sources: list[str], channels: int = 48, n_fft: int = 4096, **kwargs: Any
    ) -> None:
        super().__init__(sources, **kwargs)
        if n_fft not in _DEPTHS or channels < 4:
            raise ValueError(
                f"n_fft is {n_fft} and channels {channels}: give one of "
                f"{', '.join(map(str, _DEPTHS))}, and a number from 4 on"
            )
        self.network: nn.Module = HDemucs(
            self.sources,
            self.audio_channels,
            channels,
            nfft=n_fft,
            depth=_DEPTHS[n_fft],
            dconv_init=_BRANCH_SCALE,
        )
        for name, weights in self.network.named_parameters():
            if name.startswith(UNUSED):
                weights.requires_grad_(False)  # or ranks would wait for their gradients
        # It reflects three eighths of a window at each end, and what fills its last hop.
        self.shortest = 5 * n_fft // 8

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        samples = mixture.shape[-1]
        padded = nn.functional.pad(mixture, (0, max(0, self.shortest - samples)))
        # Its spectra want single precision.
        estimates: Tensor = self.network(padded.float())
        return estimates[..., :samples].to(mixture.dtype)
