"""Hybrid Transformer Demucs: U-Nets on waveform and spectrum, with a transformer between them.

Rouard, Massa and Defossez 2023, "Hybrid Transformers for Music Source Separation",
arXiv:2211.08553, with details of the authors' package ``demucs`` that the paper does not print.
Estimates, losses and gradients agree with the package's with the same weights, which
``interop.demucs`` reads and writes. With four sources in stereo there are 41,984,456 parameters;
six sources without bottleneck have 27,414,996, as the published model ``htdemucs_6s``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.architectures.demucs import DemucsSeparator
from lightning_modules.layers.cross_transformer import CrossTransformer
from lightning_modules.layers.hybrid_levels import (
    STRIDE,
    DecoderLevel,
    EncoderLevel,
    FrequencyEmbedding,
    rescale_convolutions,
)
from lightning_modules.layers.stft import FramePerHop
from lightning_modules.losses import L1, SourceLoss

# Added to the inputs' standard deviations before dividing by them.
_EPS = 1e-5


class HTDemucsNetwork(nn.Module):
    """Maps spectrum and waveform of the mixture to those of the sources.

    Arguments as in ``HTDemucs``. Parameters have the names of the package.
    """

    def __init__(
        self,
        sources: int,
        audio_channels: int,
        channels: int,
        depth: int,
        n_fft: int,
        bottleneck_channels: int,
        transformer_layers: int,
        heads: int,
        expansion: int,
        dropout: float,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.shape = (sources, audio_channels)
        widths = [channels * 2**level for level in range(depth)]

        def encoder(inputs: int, spectra: bool) -> nn.ModuleList:
            pairs = zip([inputs, *widths], widths, strict=False)
            return nn.ModuleList(
                EncoderLevel(before, after, spectra, checkpoint_activations)
                for before, after in pairs
            )

        def decoder(outputs: int, spectra: bool) -> nn.ModuleList:
            pairs = zip(widths, [outputs, *widths], strict=False)
            return nn.ModuleList(
                DecoderLevel(before, after, spectra, level == 0, checkpoint_activations)
                for level, (before, after) in reversed([*enumerate(pairs)])
            )

        # Spectra have a real and an imaginary part.
        self.encoder = encoder(2 * audio_channels, spectra=True)
        self.decoder = decoder(2 * audio_channels * sources, spectra=True)
        self.tencoder = encoder(audio_channels, spectra=False)
        self.tdecoder = decoder(audio_channels * sources, spectra=False)
        rescale_convolutions(self)  # and not those of the bottleneck, as in the package
        self.freq_emb = FrequencyEmbedding(n_fft // 2 // STRIDE, channels)

        def projection(before: int, after: int) -> nn.Module:
            return nn.Conv1d(before, after, 1) if bottleneck_channels else nn.Identity()

        features = bottleneck_channels or widths[-1]
        self.channel_upsampler = projection(widths[-1], features)
        self.channel_downsampler = projection(features, widths[-1])
        self.channel_upsampler_t = projection(widths[-1], features)
        self.channel_downsampler_t = projection(features, widths[-1])
        self.crosstransformer = CrossTransformer(
            features, transformer_layers, heads, expansion, dropout, checkpoint_activations
        )

    def forward(self, spectrum: Tensor, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Separate a mixture.

        Args:
            spectrum: Real and imaginary parts of its channels, shape (B, 2 C, F, N).
            waveform: The mixture, shape (B, C, T).

        Returns:
            Spectra (B, S, 2 C, F, N) and waveforms (B, S, C, T), to be added.
        """
        x, *scale = standardised(spectrum)
        y, *scale_t = standardised(waveform)
        skips, skips_t, lengths = [], [], []
        for level, (encode, encode_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            lengths.append(y.shape[-1])
            x, y = encode(x), encode_t(y)
            if level == 0:
                x = self.freq_emb(x)
            skips.append(x)
            skips_t.append(y)
        x, y = self._mixed(x, y)
        for decode, decode_t in zip(self.decoder, self.tdecoder, strict=True):
            x = decode(x, skips.pop(), 0)
            y = decode_t(y, skips_t.pop(), lengths.pop())
        return self._restored(x, scale), self._restored(y, scale_t)

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Let the branches (B, C, F, N) and (B, C, T) attend to each other."""
        bins = x.shape[2]
        x, y = self.crosstransformer(
            self.channel_upsampler(x.flatten(2)).unflatten(2, (bins, -1)),
            self.channel_upsampler_t(y),
        )
        x = self.channel_downsampler(x.flatten(2)).unflatten(2, (bins, -1))
        return x, self.channel_downsampler_t(y)

    def _restored(self, x: Tensor, scale: list[Tensor]) -> Tensor:
        """Undo ``standardised`` in the output (B, S C, ...) of a branch."""
        mean, deviation = scale
        return torch.addcmul(mean[:, None], x.unflatten(1, (self.shape[0], -1)), deviation[:, None])


def standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return examples (B, ...) with mean 0 and deviation 1, their means and their deviations."""
    axes = tuple(range(1, x.ndim))
    # The unbiased deviation of a single number is NaN.
    deviation, mean = torch.std_mean(x, axes, correction=min(1, x[0].numel() - 1), keepdim=True)
    return (x - mean) / (_EPS + deviation), mean, deviation


class HTDemucs(DemucsSeparator):
    """Hybrid Transformer Demucs for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first level, at least 8; doubled at each further level.
        depth: Number of levels of encoders and decoders.
        n_fft: Length of an STFT frame, samples, divisible by 8 x 4^(``depth`` - 1); the hop is a
            quarter of it.
        bottleneck_channels: Features of the transformer, divisible by 4 and ``heads``; 0: as many
            as the last level has channels.
        transformer_layers: Its layers in each branch.
        heads: Heads of attention.
        expansion: Hidden width of its feed-forward networks, as a multiple of its features.
        dropout: Dropout in the transformer.
        checkpoint_activations: Recompute activations of residual branches and transformer layers
            in the backward pass: less memory, slower steps.
        loss_function: Training loss; by default L1.
        **kwargs: Arguments of ``DemucsSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        "channels": 8, "n_fft": 512, "bottleneck_channels": 16, "heads": 2, "transformer_layers": 2,
    }  # fmt: skip
    changeable_hparams = DemucsSeparator.changeable_hparams.union(
        ("checkpoint_activations", "dropout")
    )

    def __init__(
        self,
        sources: list[str],
        channels: int = 48,
        depth: int = 4,
        n_fft: int = 4096,
        bottleneck_channels: int = 512,
        transformer_layers: int = 5,
        heads: int = 8,
        expansion: int = 4,
        dropout: float = 0.0,
        checkpoint_activations: bool = False,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, loss_function=loss_function or L1(), **kwargs)
        if channels < 8 or depth < 1 or min(transformer_layers, bottleneck_channels) < 0:
            raise ValueError(
                f"channels is {channels}, depth {depth}, transformer_layers {transformer_layers}, "
                f"bottleneck_channels {bottleneck_channels}: use at least 8 channels, 1 level and "
                "no negative numbers"
            )
        features = bottleneck_channels or channels * 2 ** (depth - 1)
        if min(heads, expansion) < 1 or features % heads or features % 4:
            raise ValueError(
                f"the transformer has {features} features (bottleneck_channels, or channels of the "
                f"last level), {heads} heads and expansion {expansion}: use features divisible by "
                "4 and by the heads, and numbers >= 1"
            )
        # The last level of the spectrum's encoder has at least one frequency, after 2 x 4^depth.
        step = 8 * STRIDE ** (depth - 1)
        if n_fft % step:
            raise ValueError(f"n_fft is {n_fft}, depth {depth}: use a multiple of {step}")
        self.transform = FramePerHop(n_fft)
        self.network = HTDemucsNetwork(
            len(self.sources), self.audio_channels, channels, depth, n_fft, bottleneck_channels,
            transformer_layers, heads, expansion, dropout, checkpoint_activations,
        )  # fmt: skip

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate mixtures (B, C, T) into estimates (B, S, C, T), ordered as ``self.sources``."""
        waveform = mixture.float()  # the transform needs single precision
        spectrum = torch.view_as_real(self.transform(waveform)).movedim(-1, 2).flatten(1, 2)
        spectra, waveforms = self.network(spectrum, waveform)
        # (B, S, 2 C, F, N) -> (B, S, C, F, N)
        pairs = spectra.float().unflatten(2, (-1, 2)).movedim(3, -1).contiguous()
        from_spectra = self.transform.inverse(torch.view_as_complex(pairs), mixture.shape[-1])
        estimates: Tensor = from_spectra + waveforms
        return estimates.to(mixture.dtype)
