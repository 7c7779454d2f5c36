"""Open-Unmix with crosslinks between the sources' networks, in two variants.

``concatenate`` is Goel, Huang, Owoputi and Poudyal ("Music source separation using deep
learning", section 3.6.4): besides the skip connection from tanh to the first dense layer after
the LSTM, fc2, each network has "3 more signals coming from the other 3 models". The text does not
say which signals these are or how they are joined; here they are the other networks' tanh outputs,
concatenated, so fc2 has 512 (own tanh) + 512 (own LSTM) + 3 x 512 inputs.

``average`` is X-UMX (Sawata, Uhlich, Takahashi and Mitsufuji 2021, "All for one and one for
all: improving music separation by bridging networks"): the mean of all tanh outputs is the input
of every LSTM, and the mean of concat(own tanh, LSTM output) over all networks is the input of
every fc2. This needs no more parameters than Open-Unmix: 35,573,392 for four sources in stereo
(our count). Its multi-domain and combination losses are arguments, computed as in the authors'
public code, where spectrograms of combined sources are sums of magnitudes.
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

# Added to denominators, so that the cosine with a silent signal is 0.
_EPS = 1e-10


class CrosslinkedOpenUnmix(OpenUnmix):
    """Open-Unmix with crosslinks between the sources' networks, trained jointly.

    Args:
        sources: Names of the sources, in the order of the estimates; at least two.
        crosslinks: ``concatenate`` (Goel et al.) or ``average`` (X-UMX).
        combinations: Include the sums of 2 to S - 1 sources in the loss (Sawata et al.,
            combination loss).
        waveform_weight: Weight of 1 + the weighted SDR loss of waveforms relative to the squared
            error of magnitudes (Sawata et al., multi-domain loss); 0 disables it.
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
            raise ValueError(f"crosslinks is {crosslinks!r}: use concatenate or average")
        if len(sources) < 2:
            raise ValueError(
                f"there is only one source, {sources[0]}, and crosslinks need at least two: add a "
                "source, or use lightning_modules.architectures.open_unmix.OpenUnmix"
            )
        if not 0 <= waveform_weight < float("inf"):
            raise ValueError(f"waveform_weight is {waveform_weight}: use a finite number >= 0")
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

    def run_networks(self, mixture: Tensor) -> Tensor:
        """Run the crosslinked networks on their input (B, C, F, N); returns (B, S, C, F, N)."""
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
        pairs = zip(networks, joined, strict=True)
        return torch.stack([network.decode(frames, mixture) for network, frames in pairs], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error, and weighted SDR, averaged over sources or their combinations."""
        spectrum = self.stft(batch.mixture)
        estimates = self.magnitudes(self.to_scale(spectrum.abs()))
        errors = self.errors(estimates, batch)
        squares = errors.square().mean((0, 2, 3, 4))  # (B, S, C, F, N) -> (S,)
        parts = self.source_losses(squares)
        total = combined_squares(errors) if self.combinations else squares.mean()
        if self.waveform_weight:
            spectra = self.from_scale(estimates.float()) * torch.sgn(spectrum)[:, None]
            waveforms = self.istft(spectra, batch.mixture.shape[-1])
            distances = []
            for size in range(1, len(self.sources) if self.combinations else 2):
                for group in map(list, itertools.combinations(range(len(self.sources)), size)):
                    estimate = waveforms[:, group].sum(1)
                    target = batch.targets[:, group].sum(1)
                    distances.append(weighted_sdr(estimate, target, batch.mixture))
            parts["loss/waveform"] = 1 + torch.stack(distances).mean()
            total = total + self.waveform_weight * parts["loss/waveform"]
        return {"loss": total, **parts}


def combined_squares(errors: Tensor) -> Tensor:
    """Mean squared error of all sums of 1 to S - 1 of the S >= 2 sources: (B, S, ...) to a scalar.

    Each source is in d = 2^(S-1) - 1 of the 2^S - 2 combinations and each pair in
    o = 2^(S-2) - 1, so the squares of all sums add up to

        (d - o) (sum over sources of |e|^2) + o |sum over sources of e|^2

    and only the sum over all sources is computed.
    """
    sources = errors.shape[1]
    single, double = 2 ** (sources - 1) - 1, 2 ** (sources - 2) - 1
    alone = sources * errors.square().mean()
    together = errors.sum(1).square().mean()
    mean: Tensor = ((single - double) * alone + double * together) / (2**sources - 2)
    return mean


def weighted_sdr(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Weighted SDR loss of waveforms (B, C, T), in [-1, 1]; -1 is a perfect estimate.

    Choi et al. 2019, "Phase-aware speech enhancement with deep complex U-Net", section 3.3:
    ``-a cos(y, y^) - (1 - a) cos(x - y, x - y^)`` with ``a = |y|^2 / (|y|^2 + |x - y|^2)``, here
    averaged over examples and channels.
    """
    rest, estimated_rest = mixture - target, mixture - estimate
    power, rest_power = target.square().sum(-1), rest.square().sum(-1)
    share = power / (power + rest_power + _EPS)
    source, remainder = _cosine(estimate, target), _cosine(estimated_rest, rest)
    similarity: Tensor = share * source + (1 - share) * remainder
    return -similarity.mean()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of waveforms (..., T); 0 for silence, with finite gradients."""
    norms = [(waveform.square().sum(-1) + _EPS).sqrt() for waveform in (first, second)]
    cosine: Tensor = (first * second).sum(-1) / (norms[0] * norms[1] + _EPS)
    return cosine
