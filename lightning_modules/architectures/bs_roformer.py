"""BS-RoFormer: transformers along time and bands that estimate a complex mask.

Lu, Wang, Kong and Hung 2023, "Music source separation with band-split RoPE transformer". Forward
passes agree with those of the package ``msst`` with the same weights, whose departures from the
paper are kept, since nearly all published weights have them: gates on the heads of attention, and
no norm before the mask estimators. With the paper's sizes (``head_features`` 48) and one stereo
source, 6, 9 and 12 blocks have 72,173,292, 82,824,732 and 93,476,172 parameters (printed: 72.2,
82.8 and 93.4 million; ``msst`` also counts 48 constants, its rotary frequencies).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.base.complex_spectrum import ComplexSpectrumSeparator, by_frame, masked
from lightning_modules.layers.attention import RMSNorm, Transformer
from lightning_modules.layers.axial import AxialBlock
from lightning_modules.layers.bands import BandLayout, BandMLP, BandSplit, Bins, consecutive_bands
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.checkpointing import checkpointed
from lightning_modules.losses import MultiResolutionComplexSTFT, SourceLoss

# Bins per band for n_fft 2048: at 44.1 kHz about 43 Hz wide up to 1 kHz, then wider.
_WIDTHS = [*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129]


class BandSplitTransformer(ComplexSpectrumSeparator):
    """Band split, blocks of transformers along time and bands, a complex mask per source.

    Args:
        sources: Names of the sources, in the order of the estimates.
        bands: Bins of each band.
        features: Features of a band, D.
        blocks: Number of blocks.
        heads: Heads of attention.
        head_features: Features of a head, even.
        time_layers: Layers along time per block.
        band_layers: Layers along bands per block.
        mask_expansion: Hidden width of the mask estimators, as a multiple of D.
        mask_hidden_layers: Their number of hidden layers.
        attention_dropout: Dropout of attention.
        feedforward_dropout: Dropout of the feed-forward layers.
        add_earlier_blocks: Add the outputs of all earlier blocks to a block's input.
        norm_per_transformer: End each transformer with a norm, instead of one after all blocks.
        checkpoint_activations: Recompute activations of blocks and mask estimators in the backward
            pass: less memory, slower steps.
        loss_function: Training loss; by default that of the paper.
        **kwargs: Arguments of ``ComplexSpectrumSeparator``.
    """

    changeable_hparams = ComplexSpectrumSeparator.changeable_hparams.union(
        ("checkpoint_activations", "attention_dropout", "feedforward_dropout", "zero_dc")
    )

    def __init__(
        self,
        sources: list[str],
        bands: Sequence[Bins],
        features: int = 384,
        blocks: int = 6,
        heads: int = 8,
        head_features: int = 48,
        time_layers: int = 1,
        band_layers: int = 1,
        mask_expansion: int = 4,
        mask_hidden_layers: int = 1,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        add_earlier_blocks: bool = False,
        norm_per_transformer: bool = False,
        checkpoint_activations: bool = False,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        loss_function = loss_function or MultiResolutionComplexSTFT()
        super().__init__(sources, loss_function=loss_function, **kwargs)
        sizes = (features, blocks, heads, head_features, time_layers, band_layers, mask_expansion)
        if min(sizes) < 1 or head_features % 2 or mask_hidden_layers < 0:
            raise ValueError(
                f"features, blocks, heads, head_features, time_layers, band_layers and "
                f"mask_expansion are {', '.join(map(str, sizes))}, mask_hidden_layers is "
                f"{mask_hidden_layers}: use sizes of at least 1, an even head_features, and 0 or "
                "more hidden layers"
            )
        layout = BandLayout(bands, self.n_fft // 2 + 1)
        channels = 2 * self.audio_channels

        def transformer(layers: int) -> Transformer:
            return Transformer(
                features, layers, heads, head_features,
                attention_dropout=attention_dropout, feedforward_dropout=feedforward_dropout,
                normalised=norm_per_transformer,
            )  # fmt: skip

        self.split = BandSplit(layout, channels, features)
        self.blocks = nn.ModuleList(
            AxialBlock(transformer(time_layers), transformer(band_layers), checkpoint_activations)
            for _ in range(blocks)
        )
        self.norm = nn.Identity() if norm_per_transformer else RMSNorm(features)
        hidden = features * mask_expansion
        self.masks = modules_by_source(
            self.sources,
            lambda source: BandMLP(layout, features, hidden, mask_hidden_layers, channels),
        )
        self.mask_hidden_layers = mask_hidden_layers
        self.norm_per_transformer = norm_per_transformer
        self.add_earlier_blocks = add_earlier_blocks
        self.checkpoint_activations = checkpoint_activations

    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra (B, S, 2 C, F, N) from the mixture's (B, 2 C, F, N)."""
        spectrum, frames = by_frame(mixture), mixture.shape[-1]
        x = self.split(spectrum)  # (K, B N, D)
        x = x.unflatten(1, (-1, frames)).transpose(0, 1)  # (B, K, N, D)
        earlier = torch.zeros_like(x) if self.add_earlier_blocks else None
        for block in self.blocks:
            if earlier is None:
                x = block(x)
            else:
                x = block(x + earlier)
                earlier = earlier + x
        x = self.norm(x).transpose(0, 1).flatten(1, 2)  # (K, B N, D)
        estimates = [
            masked(self._mask(estimator, x), spectrum, frames) for estimator in self.masks.values()
        ]
        return torch.stack(estimates, 1)

    def _mask(self, estimator: nn.Module, x: Tensor) -> Tensor:
        if self.checkpoint_activations and self.training:
            mask: Tensor = checkpointed(estimator, estimator, x)
        else:
            mask = estimator(x)
        return mask


class BSRoFormer(BandSplitTransformer):
    """BS-RoFormer.

    Args:
        sources: Names of the sources, in the order of the estimates.
        band_widths: Bins of the bands from bin 0 on; by default the paper's 62 bands for an
            ``n_fft`` of 2048.
        **kwargs: Arguments of ``BandSplitTransformer``. The paper has 6, 9 or 12 ``blocks``.
    """

    fixed_arguments = frozenset({"bands", "norm_per_transformer"})
    tiny: ClassVar[Mapping[str, Any]] = {
        "features": 8, "blocks": 1, "heads": 2, "head_features": 4, "mask_expansion": 1,
        "n_fft": 256, "hop_length": 64, "band_widths": [*[4] * 8, *[12] * 4, 24, 25],
    }  # fmt: skip

    def __init__(self, sources: list[str], band_widths: list[int] = _WIDTHS, **kwargs: Any) -> None:
        bands = consecutive_bands(band_widths)
        super().__init__(sources, bands, norm_per_transformer=False, **kwargs)
