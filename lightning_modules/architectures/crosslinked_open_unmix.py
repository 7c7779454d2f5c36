"""Open-Unmix whose networks hear of each other, in two ways.

``concatenate`` is Goel, Huang, Owoputi and Poudyal ("Music source separation using deep
learning", section 3.6.4): beside the skip connection from tanh to the first dense layer after
the LSTM, fc2, each network has "3 more signals coming from the other 3 models". Which signals
these are and how they join, the text leaves open; here they are the others' tanh outputs,
concatenated, so that fc2 reads 512 (own tanh) + 512 (own LSTM) + 3 x 512 numbers a frame.

``average`` is X-UMX (Sawata, Uhlich, Takahashi and Mitsufuji 2021, "All for one and one for
all: improving music separation by bridging networks"): the mean of all tanh outputs feeds
every LSTM, and the mean of all (tanh, LSTM) pairs, each tanh a network's own, every fc2. That
takes no parameter more than Open-Unmix: 35,573,392 for four sources in stereo (our count).
Its multi-domain and combination losses are arguments; they are computed as the authors'
public code does, where spectrograms of combined sources are sums of magnitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.open_unmix import OpenUnmix, OpenUnmixNetwork

Crosslinks = Literal["concatenate", "average"]

# Keeps the cosines of silent signals at 0.
_EPS = 1e-10


class CrosslinkedOpenUnmix(OpenUnmix):
    """Open-Unmix with links between the sources' networks, trained as one.

    Args:
        sources: Names of the sources, in the order of the estimates; two at least.
        crosslinks: ``concatenate`` (Goel et al.) or ``average`` (X-UMX).
        combinations: Whether the loss also compares sums of sources, from pairs up to all but
            one, with what they should be (Sawata et al., combination loss).
        waveform_weight: Weight of 1 + the weighted SDR loss of waveforms beside the squared
            error of magnitudes (Sawata et al., multi-domain loss); 0 leaves it out.
        **kwargs: Arguments of ``OpenUnmix``.
    """

    changeable_hparams = OpenUnmix.changeable_hparams | {"combinations", "waveform_weight"}

    def __init__(
        self,
        sources: list[str],
        crosslinks: Crosslinks = "concatenate",
        combinations: bool = False,
        waveform_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if crosslinks not in get_args(Crosslinks):
            raise ValueError(f"crosslinks is {crosslinks!r}: give concatenate or average")
        if len(sources) < 2:
            raise ValueError(
                f"there is one source, {sources[0]}, and nothing to link it to: name a second one, "
                "or use lightning_modules.architectures.open_unmix.OpenUnmix"
            )
        if not 0 <= waveform_weight < float("inf"):
            raise ValueError(f"waveform_weight is {waveform_weight}: give a number from 0 on")
        self.crosslinks, self.combinations = crosslinks, combinations
        self.waveform_weight = waveform_weight
        if crosslinks == "concatenate":
            for network in self._networks():
                hidden_size = network.fc2.out_features
                network.fc2 = nn.Linear((len(sources) + 1) * hidden_size, hidden_size, bias=False)

    def _networks(self) -> Iterator[OpenUnmixNetwork]:
        for network in self.networks.values():
            assert isinstance(network, OpenUnmixNetwork)
            yield network

    def separated(self, mixture: Tensor) -> Tensor:
        """Run the networks on what they read, (B, C, F, N), for (B, S, C, F, N)."""
        networks = list(self._networks())
        encoded = [network.encode(mixture) for network in networks]  # (N, B, hidden) each
        if self.crosslinks == "average":
            bridge = torch.stack(encoded).mean(0)
            recurrent = torch.stack([network.recur(bridge) for network in networks]).mean(0)
            joined = [torch.cat([bridge, recurrent], -1)] * len(networks)
        else:
            joined = [
                torch.cat([own, network.recur(own), *encoded[:number], *encoded[number + 1 :]], -1)
                for number, (network, own) in enumerate(zip(networks, encoded, strict=True))
            ]
        decoded = [
            network.decode(frames, mixture)
            for network, frames in zip(networks, joined, strict=True)
        ]
        return torch.stack(decoded, 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean over the (combinations of) sources of the squared error, and of the weighted SDR."""
        spectrum = self.stft(batch.mixture)
        estimates = self.magnitudes(self.to_scale(spectrum.abs()))
        errors = self.errors(estimates, batch)
        squares = errors.square().mean((0, 2, 3, 4))  # (B, S, C, F, N) -> (S,)
        parts = self.source_losses(squares)
        total = combined_squares(errors) if self.combinations else squares.mean()
        if self.waveform_weight:
            spectra = self.from_scale(estimates.float()) * torch.sgn(spectrum)[:, None]
            waveforms = self.istft(spectra, batch.mixture.shape[-1])
            sizes = range(1, len(self.sources) if self.combinations else 2)
            groups = [
                list(group)
                for size in sizes
                for group in itertools.combinations(range(len(self.sources)), size)
            ]
            distances = [
                weighted_sdr(
                    waveforms[:, group].sum(1), batch.targets[:, group].sum(1), batch.mixture
                )
                for group in groups
            ]
            parts["loss/waveform"] = 1 + torch.stack(distances).mean()
            total = total + self.waveform_weight * parts["loss/waveform"]
        return {"loss": total, **parts}


def combined_squares(errors: Tensor) -> Tensor:
    """Mean squared error of all sums of 1 to S - 1 sources, a mean over the combinations.

    Each source is in d = 2^(S-1) - 1 of the 2^S - 2 combinations and each two together in
    o = 2^(S-2) - 1, so that the squares of all sums add up to

        (d - o) (sum over sources of |e|^2) + o |sum over sources of e|^2

    and no sum but one is ever formed.

    Args:
        errors: Estimated less true magnitudes, shape (B, S, ...), S from 2 on.

    Returns:
        The mean, a scalar.
    """
    sources = errors.shape[1]
    single, double = 2 ** (sources - 1) - 1, 2 ** (sources - 2) - 1
    alone = sources * errors.square().mean()
    together = errors.sum(1).square().mean()
    mean: Tensor = ((single - double) * alone + double * together) / (2**sources - 2)
    return mean


def weighted_sdr(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Weighted SDR loss, of the source and of what is left of the mixture.

    Choi et al. 2019, "Phase-aware speech enhancement with deep complex U-Net", section 3.3:
    ``-a cos(y, y^) - (1 - a) cos(x - y, x - y^)`` with ``a = |y|^2 / (|y|^2 + |x - y|^2)``.

    Args:
        estimate: Waveforms, shape (B, C, T).
        target: What they should be, same shape.
        mixture: What both are part of, same shape.

    Returns:
        Mean over examples and channels, from -1 for a perfect estimate to 1.
    """
    rest, estimated_rest = mixture - target, mixture - estimate
    power, rest_power = target.square().sum(-1), rest.square().sum(-1)
    share = power / (power + rest_power + _EPS)
    source, remainder = _cosine(estimate, target), _cosine(estimated_rest, rest)
    similarity: Tensor = share * source + (1 - share) * remainder
    return -similarity.mean()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between waveforms (..., T); 0 for silence, with finite gradients."""
    norms = [(waveform.square().sum(-1) + _EPS).sqrt() for waveform in (first, second)]
    cosine: Tensor = (first * second).sum(-1) / (norms[0] * norms[1] + _EPS)
    return cosine
