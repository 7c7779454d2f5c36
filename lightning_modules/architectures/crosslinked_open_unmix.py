"""Open-Unmix with crosslinks between the sources' networks, in two variants.

``concatenate`` is the variant of Goel, Huang, Owoputi and Poudyal ("Music source separation using
deep learning", section 3.6.4). In Open-Unmix, a skip connection leads from the tanh output to fc2,
the first dense layer after the LSTM. In this variant, each network also has "3 more signals coming
from the other 3 models". The paper does not say which signals these are or how they are combined.
Here the tanh outputs of the other networks are concatenated, so fc2 has 512 (own tanh) + 512 (own
LSTM) + 3 x 512 inputs.

``average`` is X-UMX (Sawata, Uhlich, Takahashi and Mitsufuji 2021, "All for one and one for all:
improving music separation by bridging networks"). The input of every LSTM is the mean of all tanh
outputs. The input of every fc2 is the mean over all networks of concat(tanh output, LSTM output).
The number of parameters is that of Open-Unmix: 35,573,392 for four sources in stereo (our count).
The paper's multi-domain and combination losses are optional (``waveform_weight``,
``combinations``). As in the authors' public code, the magnitudes of combined sources are the sums
of their magnitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.architectures.open_unmix import OpenUnmix, OpenUnmixNetwork
from lightning_modules.base.known_targets import mean_of_known

Crosslinks = Literal["concatenate", "average"]

# Added to denominators, so that the cosine similarity with a silent signal is 0.
_EPS = 1e-10


class CrosslinkedOpenUnmix(OpenUnmix):
    """Open-Unmix with crosslinks between the sources' networks, trained jointly.

    Args:
        sources: Names of the sources, in the order of the estimates; at least two.
        crosslinks: ``concatenate`` (Goel et al.) or ``average`` (X-UMX).
        combinations: Also include all sums of 2 to S - 1 sources in the loss (combination loss of
            Sawata et al.).
        waveform_weight: Weight of the waveform loss, (1 + weighted SDR loss), relative to the
            squared error of magnitudes (multi-domain loss of Sawata et al.); 0 disables it.
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
                f"sources is {sources}, and crosslinks need at least two: add a source, or use "
                "lightning_modules.architectures.open_unmix.OpenUnmix"
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

    def run_networks(self, mixture: Tensor) -> Iterator[Tensor]:
        """Run the networks on their input (B, C, F, N); yields estimates of the same shape."""
        networks = list(self._networks())
        encoded = [network.encode(mixture) for network in networks]  # each (N, B, hidden)
        if self.crosslinks == "average":
            bridge = torch.stack(encoded).mean(0)
            recurrent = torch.stack([network.run_lstm(bridge) for network in networks]).mean(0)
            joined = [torch.cat([bridge, recurrent], -1)] * len(networks)
        else:
            joined = [
                torch.cat(
                    [own, network.run_lstm(own), *encoded[:number], *encoded[number + 1 :]], -1
                )
                for number, (network, own) in enumerate(zip(networks, encoded, strict=True))
            ]
        for network, frames in zip(networks, joined, strict=True):
            yield network.decode(frames, mixture)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the squared error of magnitudes and, if enabled, the waveform loss.

        Both are averaged over the sources, or over all their combinations.
        """
        spectrum = self.stft(batch.mixture)
        estimates = self.magnitudes(self.to_scale(spectrum.abs()))
        errors = estimates.float() - self.inputs(self.stft(batch.targets))
        squares = errors.square().mean((2, 3, 4))  # (B, S, C, F, N) -> (B, S)
        squares = mean_of_known(squares, batch.known)
        if batch.known is not None:  # unknown sources have no error in any combination
            errors = torch.where(batch.known[..., None, None, None], errors, 0)
        parts = self.source_losses(squares)
        total = combined_squares(errors) if self.combinations else squares.mean()
        if self.waveform_weight:
            spectra = self.from_scale(estimates.float()) * torch.sgn(spectrum)[:, None]
            waveforms = self.istft(spectra, batch.mixture.shape[-1])
            targets = batch.targets
            if batch.known is not None:
                targets = torch.where(batch.known[..., None, None], targets, waveforms.detach())
            distances = []
            for size in range(1, len(self.sources) if self.combinations else 2):
                for group in map(list, itertools.combinations(range(len(self.sources)), size)):
                    estimate = waveforms[:, group].sum(1)
                    target = targets[:, group].sum(1)
                    distances.append(weighted_sdr(estimate, target, batch.mixture))
            parts["loss/waveform"] = 1 + torch.stack(distances).mean()
            total = total + self.waveform_weight * parts["loss/waveform"]
        return {"loss": total, **parts}


def combined_squares(errors: Tensor) -> Tensor:
    """Average the squared error of the sum of sources over all combinations of 1 to S - 1 sources.

    Errors have shape (B, S, ...), with S >= 2; the result is a scalar.

    Each source is in d = 2^(S-1) - 1 of the 2^S - 2 combinations and each pair in
    o = 2^(S-2) - 1, so the squares of all sums add up to

        (d - o) (sum over sources of |e|^2) + o |sum over sources of e|^2

    and the combinations need not be computed one by one.
    """
    sources = errors.shape[1]
    single, double = 2 ** (sources - 1) - 1, 2 ** (sources - 2) - 1
    alone = sources * errors.square().mean()
    together = errors.sum(1).square().mean()
    mean: Tensor = ((single - double) * alone + double * together) / (2**sources - 2)
    return mean


def weighted_sdr(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """Compute the weighted SDR loss of waveforms (B, C, T), in [-1, 1]; -1 is a perfect estimate.

    Choi et al. 2019, "Phase-aware speech enhancement with deep complex U-Net", section 3.3:
    ``-a cos(y, y^) - (1 - a) cos(x - y, x - y^)`` with ``a = |y|^2 / (|y|^2 + |x - y|^2)``, the
    mixture x, the target y and its estimate y^; averaged over examples and channels.
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
