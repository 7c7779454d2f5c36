"""BSRNN: LSTMs along frames and bands that estimate a complex mask, one network per source.

Luo and Yu 2023, "Music source separation with band-split RNN", arXiv:2209.15174. Bands are chosen
by source: the paper's V7 for vocals and other, and those for bass and for drums. In stereo a
network has 28,018,064 (V7), 27,287,312 (bass) and 28,948,112 (drums) parameters (our counts).

Our choices: a group norm has one group, all features and frames of a band, or all features and
bands of a frame; the channels of a bin are features of its band, as the paper's formulas are for
one channel. Departs from the paper: the sources' networks are trained together, and the norm of
their gradients is clipped together. Otherwise each makes the same steps as if it were trained
alone. One source, such as ``sources: [vocals]``, is trained as in the paper.

The reimplementation by amanteur, ``BandSplitRNN-PyTorch``, differs in four ways. Three are
arguments: an instance norm (``norm_groups`` 128), ``extra_linear`` and ``standardise_input``. With
the first two a network has 27,516,276, 29,211,252 and 30,116,980 parameters. The fourth is not
offered, because it fixes the length of the input to 3 s: a layer norm over features and frames
together, with weights for each of 263 frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_modules.base.complex_spectrum import by_frame, masked
from lightning_modules.base.network_per_source import ComplexNetworkPerSource
from lightning_modules.layers.axial import AxialBlock
from lightning_modules.layers.bands import BandLayout, BandMLP, BandNorm, BandSplit, bands_between
from lightning_modules.layers.blstm import ResidualBLSTM
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.losses import SourceLoss, SpectralL1

# Up to a frequency, width of a band, both Hz; one more band contains the frequencies above.
_SCHEMES: Mapping[str, Sequence[tuple[int, int]]] = {
    "v7": ((1000, 100), (4000, 250), (8000, 500), (16000, 1000), (20000, 2000)),
    "bass": ((500, 50), (1000, 100), (4000, 500), (8000, 1000), (16000, 2000)),
    "drums": ((1000, 50), (2000, 100), (4000, 250), (8000, 500), (16000, 1000)),
}
# Below the deviation of any audible spectrum.
_SILENCE = 1e-8


class BSRNNNetwork(nn.Module):
    """The network of one source: maps the mixture's spectrum to the source's.

    Arguments as in ``BSRNN``; ``channels`` is the number of real numbers per bin.
    """

    def __init__(
        self,
        layout: BandLayout,
        channels: int,
        features: int,
        blocks: int,
        hidden_size: int,
        mask_expansion: int,
        norm_groups: int,
        extra_linear: bool,
        standardise_input: bool,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.standardise_input = standardise_input
        self.split = BandSplit(layout, channels, features, norm="layer")
        shape = (features, hidden_size, norm_groups)
        self.blocks = nn.ModuleList(
            AxialBlock(ResidualBLSTM(*shape), ResidualBLSTM(*shape), checkpoint_activations)
            for _ in range(blocks)
        )
        hidden = mask_expansion * features
        self.mask = nn.Sequential(
            BandNorm(layout.number, features, "layer"),
            BandMLP(layout, features, hidden, 1, channels, extra_linear),
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a spectrum (B, 2 C, F, N) to a spectrum of the same shape."""
        x = self.split(by_frame(_standardised(mixture) if self.standardise_input else mixture))
        frames = mixture.shape[-1]
        x = x.unflatten(1, (-1, frames)).transpose(0, 1)  # (K, B N, D) -> (B, K, N, D)
        for block in self.blocks:
            x = block(x)
        mask = self.mask(x.transpose(0, 1).flatten(1, 2))  # (B N, F, 2 C)
        return masked(mask, by_frame(mixture), frames)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers before and after the LSTMs, which Dynamo unrolls over time."""
        self.split.compile(*args, **kwargs)
        self.mask.compile(*args, **kwargs)


def _standardised(spectrum: Tensor) -> Tensor:
    """Subtract the complex mean of each example (B, 2 C, F, N), and divide by the deviation."""
    values = spectrum.unflatten(1, (-1, 2))  # (B, C, 2, F, N)
    centred = values - values.mean((1, 3, 4), keepdim=True)
    power = centred.square().sum(2, keepdim=True).mean((1, 3, 4), keepdim=True)
    standardised: Tensor = centred / power.sqrt().clamp_min(_SILENCE)
    return standardised.flatten(1, 2)


def scheme_edges(name: str) -> list[float]:
    """Return the frequencies between the bands of a scheme of the paper, Hz, increasing.

    Args:
        name: ``v7``, ``bass`` or ``drums``.

    Raises:
        ValueError: The scheme is unknown.
    """
    if name not in _SCHEMES:
        raise ValueError(
            f"bands has scheme {name!r}: use {', '.join(_SCHEMES)} or a list of frequencies in Hz"
        )
    parts = pairwise([(0, 0), *_SCHEMES[name]])
    return [
        float(edge)
        for (start, _), (stop, width) in parts
        for edge in range(start + width, stop + 1, width)
    ]


class BSRNN(ComplexNetworkPerSource):
    """BSRNN, one network per source.

    Args:
        sources: Names of the sources, in the order of the estimates.
        bands: Bands, per source or for all: ``v7``, ``bass``, ``drums``, or increasing frequencies
            between bands, Hz. Sources without an entry have those of the paper: ``bass`` and
            ``drums`` the ones of that name, others ``v7``.
        features: Features of a band, D.
        blocks: Number of blocks, of an LSTM along frames and one along bands.
        hidden_size: Features of each direction of an LSTM.
        mask_expansion: Hidden width of the mask estimators, as a multiple of D.
        norm_groups: Groups of the group norms; with ``features`` groups they are instance norms.
        extra_linear: Two linear layers before the gates of the mask estimators, not one.
        standardise_input: Give the networks spectra with zero mean and unit deviation.
        checkpoint_activations: Recompute activations of blocks in the backward pass: less memory,
            slower steps.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples.
        loss_function: Training loss; by default the paper's, ``SpectralL1`` with these frames.
        **kwargs: Arguments of ``ComplexNetworkPerSource``.
    """

    changeable_hparams = ComplexNetworkPerSource.changeable_hparams.union(
        ("checkpoint_activations", "zero_dc")
    )
    tiny: ClassVar[Mapping[str, Any]] = {
        "features": 8, "blocks": 1, "hidden_size": 8, "mask_expansion": 1, "n_fft": 256,
        "hop_length": 64, "norm_groups": 2,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        bands: dict[str, str | list[float]] | str | list[float] | None = None,
        features: int = 128,
        blocks: int = 12,
        hidden_size: int = 256,
        mask_expansion: int = 4,
        norm_groups: int = 1,
        extra_linear: bool = False,
        standardise_input: bool = False,
        checkpoint_activations: bool = False,
        n_fft: int = 2048,
        hop_length: int = 512,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources, n_fft=n_fft, hop_length=hop_length,
            loss_function=loss_function or SpectralL1(n_fft, hop_length), **kwargs,
        )  # fmt: skip
        if min(features, blocks, hidden_size, mask_expansion) < 1:
            raise ValueError(
                f"features is {features}, blocks {blocks}, hidden_size {hidden_size} and "
                f"mask_expansion {mask_expansion}: use numbers >= 1"
            )
        if norm_groups < 1 or features % norm_groups:
            raise ValueError(
                f"norm_groups is {norm_groups} with {features} features: use a divisor of features"
            )
        edges = self._edges(bands)
        settings = (
            2 * self.audio_channels, features, blocks, hidden_size, mask_expansion, norm_groups,
            extra_linear, standardise_input, checkpoint_activations,
        )  # fmt: skip

        def network(source: str) -> nn.Module:
            inside = bands_between(edges[source], n_fft, self.sample_rate)
            return BSRNNNetwork(BandLayout(inside, n_fft // 2 + 1), *settings)

        self.networks = modules_by_source(self.sources, network)

    def _edges(
        self, bands: dict[str, str | list[float]] | str | list[float] | None
    ) -> dict[str, Sequence[float]]:
        """Return the frequencies between the bands by source; raises if they are invalid."""
        paper = {name: name if name in _SCHEMES else "v7" for name in self.sources}
        if not isinstance(bands, dict):
            bands = {} if bands is None else dict.fromkeys(paper, bands)
        unknown = sorted(set(bands) - set(paper))
        if unknown:
            raise ValueError(
                f"bands has {', '.join(unknown)}, but the sources are {', '.join(paper)}: give "
                "bands for these"
            )
        edges: dict[str, Sequence[float]] = {}
        for source, scheme in {**paper, **bands}.items():
            found = scheme_edges(scheme) if isinstance(scheme, str) else scheme
            rising = all(low < high for low, high in pairwise([0, *found]))
            if not (rising and all(map(math.isfinite, found))):
                raise ValueError(
                    f"bands of {source} are {list(found)}: use increasing frequencies above 0 Hz"
                )
            edges[source] = found
        return edges
