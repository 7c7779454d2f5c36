"""SCNet: bands that are compressed by different factors, and LSTMs along bins and frames.

Tong, Zhu, Chen, Kang, Jiang, Li, Wu and Meng 2024, "SCNet: sparse compression network for music
source separation", arXiv:2401.13276. Estimates agree with those of the package ``msst`` with the
same weights. With four stereo sources it has 10,578,768 parameters (printed: 10.08 million), the
large one 42,181,232 (printed: 41.2).

Options for the variants of Music-Source-Separation-Training: ``estimate: mask`` is its
``scnet_masked``, ``sequence_network: transformer`` its ``scnet_tran``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import counted
from lightning_modules.base.complex_spectrum import ComplexSpectrumSeparator, complex_product
from lightning_modules.layers.attention import Transformer
from lightning_modules.layers.blstm import BLSTM
from lightning_modules.layers.checkpointing import checkpointed
from lightning_modules.layers.compressed_bands import Band, bands_of
from lightning_modules.layers.dual_path import (
    DualPathLayer,
    frames_to_spectrum,
    spectrum_to_frames,
)
from lightning_modules.layers.images import to_channels_last
from lightning_modules.losses import SourceLoss, SpectralRMSE

# Added to the deviation of a spectrum.
_EPS = 1e-5


class BinNorm(nn.Module):
    """Norm over channels and frames of each bin, then a gain and an offset per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images (B, C, F, N)."""
        rows = x.permute(0, 2, 3, 1)  # (B, F, N, C)
        gain, offset = (part.expand(rows.shape[2:]) for part in (self.gain, self.offset))
        return functional.layer_norm(rows, rows.shape[2:], gain, offset).permute(0, 3, 1, 2)


class ConvolutionModule(nn.Module):
    """Gated convolution and depthwise convolution along frames, with a residual connection.

    Args:
        channels: C.
        hidden: Channels inside.
        kernel: Length of the kernels, frames, odd.
    """

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        size, padding = (1, kernel), (0, kernel // 2)
        self.norm = BinNorm(channels)
        self.gated = nn.Conv2d(channels, 2 * hidden, size, padding=padding)
        self.depthwise = nn.Conv2d(hidden, hidden, size, padding=padding, groups=hidden)
        self.hidden_norm = BinNorm(hidden)
        self.output = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, F, N) to the same shape."""
        hidden = functional.glu(self.gated(self.norm(x)), 1)
        hidden = functional.silu(self.hidden_norm(self.depthwise(hidden)))
        residual: Tensor = self.output(hidden)
        return x + residual


class EncoderStage(nn.Module):
    """Compress each band along its bins, refine it along frames, and mix all bands.

    Args:
        bands: The bands.
        inputs: Channels of the input.
        channels: Channels of the output.
        hidden: Channels inside the convolution modules.
        kernel: Kernel of the convolution modules, frames.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        bands: Sequence[Band],
        inputs: int,
        channels: int,
        hidden: int,
        kernel: int,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.bands = bands
        self.compressions = nn.ModuleList(
            nn.Conv2d(inputs, channels, (band.kernel, 1), (band.stride, 1)) for band in bands
        )
        self.refinements = nn.ModuleList(
            nn.Sequential(*(ConvolutionModule(channels, hidden, kernel) for _ in range(band.depth)))
            for band in bands
        )
        self.mixing = nn.Conv2d(channels, channels, 3, padding=1)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, F, N) to (B, C', F', N), once before and once after the mixing."""
        if self.checkpoint_activations and self.training:
            parallel = checkpointed(self, self.compressed, x)
        else:
            parallel = self.compressed(x)
        return parallel, self.mixing(parallel)

    def compressed(self, x: Tensor) -> Tensor:
        """Compress and refine the bands of images (B, C, F, N); (B, C', F', N)."""
        parts = []
        parallel = zip(self.bands, self.compressions, self.refinements, strict=True)
        for band, compress, refine in parallel:
            part = x[:, :, band.first : band.first + band.bins]
            before = band.padding // 2
            part = functional.pad(part, (0, 0, before, band.padding - before))
            parts.append(functional.gelu(refine(compress(part))))
        return torch.cat(parts, 2)


class DecoderStage(nn.Module):
    """Add the encoder's features, mix with gates, and expand each band along its bins.

    Args:
        bands: The bands.
        channels: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, bands: Sequence[Band], channels: int, outputs: int) -> None:
        super().__init__()
        self.bands = bands
        self.mixing = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.expansions = nn.ModuleList(
            nn.ConvTranspose2d(channels, outputs, (band.kernel, 1), (band.stride, 1))
            for band in bands
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map images (B, C, F', N), and the encoder's of the same shape, to (B, C', F, N)."""
        # The paper repeats all channels before this convolution. To add the weights of equal
        # channels gives the same result with half of the operations.
        weight = to_channels_last(self.mixing.weight.unflatten(1, (2, -1)).sum(1))
        mixed = functional.conv2d(x + skip, weight, self.mixing.bias, padding=1)
        sizes = [band.compressed for band in self.bands]
        gated = functional.glu(mixed, 1).split(sizes, 2)
        parts = []
        for band, expand, part in zip(self.bands, self.expansions, gated, strict=True):
            parts.append(expand(part).narrow(2, (band.expanded - band.bins) // 2, band.bins))
        return torch.cat(parts, 2)


class DualPath(nn.Module):
    """Dual-path layers, by turns on frames and on their spectrum, which has twice the features.

    Args:
        layers: The layers.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, D, F, N), N even, to the same shape."""
        x = x.permute(0, 2, 3, 1)  # a view: memory is channels-last
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = spectrum_to_frames(x) if number % 2 else frames_to_spectrum(x)
        return x.permute(0, 3, 1, 2)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: Dynamo unrolls LSTMs over time."""


class ComplexMask(nn.Module):
    """Convolutions that estimate complex masks with parts in (-1, 1).

    Args:
        channels: Real and imaginary parts of all sources.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, 64, 3, padding=1)
        self.output = nn.Conv2d(64, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, F, N) to masks of the same shape."""
        masks: Tensor = self.output(functional.gelu(self.hidden(x)))
        return masks.tanh()


# ---------------------------------------------------------------- separator


class SCNet(ComplexSpectrumSeparator):
    """SCNet.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of each stage.
        band_shares: Share of the bins in each band but the highest, which has the rest.
        band_strides: Compression of each band in each stage.
        band_kernels: Kernel of each band's compression, bins.
        band_depths: Convolution modules of each band.
        compression: Channels of a stage, divided by those inside its convolution modules.
        kernel: Kernel of the convolution modules, frames, odd.
        layers: Number of dual-path layers, even.
        expansion: Features of each direction of an LSTM, as a multiple of its input.
        sequence_network: ``lstm``; or ``transformer``, with rotary positions, of which the paper
            has none.
        transformer_layers: Layers of a transformer.
        heads: Heads of its attention.
        head_features: Features of a head, even.
        dropout: Dropout of the transformers.
        estimate: ``spectrum``, as in the paper; or ``mask``, complex masks from two more
            convolutions, with a learned embedding of the bins added to the input.
        standardise_input: Give the network spectra with zero mean and unit deviation, as the
            authors' code does since September 2024. Weights do not show it; those published in July
            2024 are used without.
        checkpoint_activations: Recompute activations in the backward pass: none, those of the
            dual-path layers on frames (``half``), or those of all and of the encoder. A step keeps
            100, 61 or 12% of the activations and, on a CPU, takes 100, 107 or 112% of the time:
            layers on frames keep as much as those on spectra, and cost half.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples, less than half a frame.
        window: Window of a frame; the paper's code has none.
        normalized: Divide spectra by the root of ``n_fft``.
        loss_function: Training loss; by default the paper's, ``SpectralRMSE`` with these frames.
        **kwargs: Arguments of ``ComplexSpectrumSeparator``.
    """

    changeable_hparams = ComplexSpectrumSeparator.changeable_hparams.union(
        ("checkpoint_activations", "dropout", "standardise_input", "zero_dc")
    )
    tiny: ClassVar[Mapping[str, Any]] = {
        "channels": [8, 8, 8], "layers": 2, "n_fft": 512, "hop_length": 128,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        channels: Sequence[int] = (32, 64, 128),
        band_shares: Sequence[float] = (0.175, 0.392),
        band_strides: Sequence[int] = (1, 4, 16),
        band_kernels: Sequence[int] = (3, 4, 16),
        band_depths: Sequence[int] = (3, 2, 1),
        compression: int = 4,
        kernel: int = 3,
        layers: int = 6,
        expansion: int = 1,
        sequence_network: Literal["lstm", "transformer"] = "lstm",
        transformer_layers: int = 1,
        heads: int = 8,
        head_features: int = 64,
        dropout: float = 0.0,
        estimate: Literal["spectrum", "mask"] = "spectrum",
        standardise_input: bool = False,
        checkpoint_activations: bool | Literal["half"] = "half",
        n_fft: int = 4096,
        hop_length: int = 1024,
        window: Literal["hann", "rectangular"] = "rectangular",
        normalized: bool = True,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources, n_fft=n_fft, hop_length=hop_length, window=window, normalized=normalized,
            loss_function=loss_function or SpectralRMSE(n_fft, hop_length), **kwargs,
        )  # fmt: skip
        sizes = (*channels, compression, kernel, layers, expansion, transformer_layers, heads)
        if not channels or min(sizes) < 1 or kernel % 2 == 0 or layers % 2 or head_features % 2:
            raise ValueError(
                f"channels are {list(channels)}, compression is {compression}, kernel {kernel}, "
                f"layers {layers}, expansion {expansion}, transformer_layers {transformer_layers}, "
                f"heads {heads}, head_features {head_features}: use sizes of at least 1, an odd "
                "kernel, even numbers of layers and head_features"
            )
        if min(channels) < compression:
            raise ValueError(
                f"compression is {compression} with {counted(min(channels), 'channel')}: use at "
                f"most that many"
            )
        if sequence_network not in ("lstm", "transformer") or estimate not in ("spectrum", "mask"):
            raise ValueError(
                f"sequence_network is {sequence_network!r}, estimate {estimate!r}: use lstm or "
                "transformer, and spectrum or mask"
            )
        if 2 * hop_length >= n_fft:
            raise ValueError(
                f"hop_length is {hop_length} with n_fft {n_fft}: use less than {n_fft / 2:g}"
            )
        self.standardise_input = standardise_input
        parts, bins = 2 * self.audio_channels, n_fft // 2 + 1
        inputs, outputs = [parts, *channels[:-1]], [parts * len(sources), *channels[:-1]]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for given, inner, restored in zip(inputs, channels, outputs, strict=True):
            bands = bands_of(bins, band_shares, band_strides, band_kernels, band_depths)
            hidden = inner // compression
            encoder.append(
                EncoderStage(bands, given, inner, hidden, kernel, checkpoint_activations is True)
            )
            decoder.insert(0, DecoderStage(bands, inner, restored))
            bins = sum(band.compressed for band in bands)

        def network(features: int) -> nn.Module:
            if sequence_network == "lstm":
                return BLSTM(features, expansion * features)
            return Transformer(
                features, transformer_layers, heads, head_features,
                attention_dropout=dropout, feedforward_dropout=dropout, normalised=True,
            )  # fmt: skip

        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.dual_path = DualPath([
            DualPathLayer(
                (1 + number % 2) * channels[-1], network,
                checkpoint_activations is True or (bool(checkpoint_activations) and not number % 2),
            )
            for number in range(layers)
        ])  # fmt: skip
        self.mask = ComplexMask(outputs[0]) if estimate == "mask" else None
        self.embedding = (
            nn.Parameter(0.02 * torch.randn(1, parts, n_fft // 2 + 1, 1)) if self.mask else None
        )
        to_channels_last(self)

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to its spectrum (B, 2 C, F, N), with an even number N."""
        frames = mixture.shape[-1] // self.hop_length + 2
        return super().network_input(self.lengthened(mixture, frames, 2))

    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra (B, S, 2 C, F, N) from the mixture's (B, 2 C, F, N)."""
        x = to_channels_last(mixture)
        if self.standardise_input:
            deviation, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
            x = (x - mean) / (deviation + _EPS)
        if self.embedding is not None:
            x = x + self.embedding
        skips = []
        for encode in self.encoder:
            skip, x = encode(x)
            skips.append(skip)
        x = self.dual_path(x)
        for decode in self.decoder:
            x = decode(x, skips.pop())
        if self.mask is not None:
            return self._masked(self.mask(x), mixture)
        if self.standardise_input:
            x = x * deviation + mean
        estimates: Tensor = x.unflatten(1, (len(self.sources), -1))
        return estimates

    def _masked(self, masks: Tensor, mixture: Tensor) -> Tensor:
        """Multiply masks (B, S 2 C, F, N) and the mixture's spectrum."""
        parts = masks.float().unflatten(1, (len(self.sources), -1, 2)).movedim(3, -1)
        spectrum = mixture.unflatten(1, (-1, 2)).movedim(2, -1)[:, None]
        product: Tensor = complex_product(parts, spectrum).movedim(-1, 3)
        return product.flatten(2, 3)
