"""Open-Unmix: one bidirectional LSTM per source that estimates a mask for the magnitudes.

Stoter, Uhlich, Liutkus and Mitsufuji 2019, "Open-Unmix: a reference implementation for
music source separation", with details of their package ``openunmix`` that the paper does not
print. Networks and separation agree with the package's up to rounding; ``interop.open_unmix``
loads its weights.

Departs from the package's training: all sources are trained jointly, on the same examples and
with one learning rate schedule, driven by the sum of their losses; and training also uses frames
at the edges of a crop, which are reflected. With four sources, stereo, a window of 4096 samples
and the default size the model has 35,573,392 parameters (our count), 8,893,348 per source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.known_targets import distances_by_source
from lightning_modules.base.standardised_input import StandardisedInput
from lightning_modules.layers.by_source import modules_by_source

# Between LSTM layers.
_DROPOUT = 0.4


class OpenUnmixNetwork(nn.Module):
    """The network of one source: maps the mixture's magnitudes to the source's.

    Parameters have the names of the package ``openunmix``. ``input_bins`` is the number of lowest
    bins that the network reads.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        input_bins: int,
        hidden_size: int,
        layers: int,
        unidirectional: bool,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_bins * channels, hidden_size, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.lstm = nn.LSTM(
            hidden_size,
            hidden_size if unidirectional else hidden_size // 2,
            layers,
            bidirectional=not unidirectional,
            dropout=_DROPOUT if layers > 1 else 0.0,
        )
        self.fc2 = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden_size)
        self.fc3 = nn.Linear(hidden_size, bins * channels, bias=False)
        self.bn3 = nn.BatchNorm1d(bins * channels)
        # -mean and 1 / deviation of each bin as initial values, then trained.
        self.input_mean = nn.Parameter(torch.zeros(input_bins))
        self.input_scale = nn.Parameter(torch.ones(input_bins))
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape."""
        encoded = self.encode(mixture)
        return self.decode(torch.cat([encoded, self.run_lstm(encoded)], -1), mixture)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers before and after the LSTM; Dynamo unrolls an LSTM over time."""
        for name in ("encode", "decode"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def encode(self, mixture: Tensor) -> Tensor:
        """Encode magnitudes (B, C, F, N) as frames (N, B, hidden) in [-1, 1]."""
        x = mixture.permute(3, 0, 1, 2)[..., : len(self.input_mean)]  # -> (N, B, C, F)
        x = (x + self.input_mean) * self.input_scale
        return torch.tanh(_by_frames(self.bn1, self.fc1(x.flatten(2))))

    def run_lstm(self, frames: Tensor) -> Tensor:
        """Run the LSTM over frames (N, B, hidden); same shape."""
        states: Tensor = self.lstm(frames)[0]
        return states

    def decode(self, joined: Tensor, mixture: Tensor) -> Tensor:
        """Decode frames (N, B, joined) to a mask and apply it to magnitudes (B, C, F, N)."""
        x = torch.relu(_by_frames(self.bn2, self.fc2(joined)))
        x = _by_frames(self.bn3, self.fc3(x))
        x = x.unflatten(2, (mixture.shape[1], -1))  # (N, B, C F) -> (N, B, C, F)
        mask = torch.relu(x * self.output_scale + self.output_mean)
        # In the layout of the frames, in which the backward pass goes on.
        return (mask * mixture.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)


def _by_frames(norm: nn.BatchNorm1d, frames: Tensor) -> Tensor:
    """Apply batch norm to frames (N, B, hidden) as (N B, hidden)."""
    normed: Tensor = norm(frames.flatten(0, 1))
    return normed.view(frames.shape)


def bins_up_to(frequency_hz: float, n_fft: int, sample_rate: int) -> int:
    """Number of bins from 0 Hz up to and including a frequency, at most n_fft // 2 + 1."""
    return math.floor(min(frequency_hz * n_fft / sample_rate, n_fft // 2)) + 1


class OpenUnmix(StandardisedInput):
    """Open-Unmix networks, one per source, trained jointly.

    Args:
        sources: Names of the sources, in the order of the estimates.
        hidden_size: Width of the dense layers, and of both LSTM directions together.
        layers: Number of LSTM layers.
        bandwidth_hz: Upper limit of the networks' input, Hz; the output covers all bins.
        unidirectional: Use a unidirectional LSTM of the same width, which sees past frames only.
        mono: Average the magnitudes of the channels, and use one estimate for all channels.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    pad_mode = "reflect"
    tiny: ClassVar[Mapping[str, Any]] = {"hidden_size": 16, "n_fft": 512, "hop_length": 256}

    def __init__(
        self,
        sources: list[str],
        hidden_size: int = 512,
        layers: int = 3,
        bandwidth_hz: float = 16000.0,
        unidirectional: bool = False,
        mono: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if layers < 1 or hidden_size < 2 or hidden_size % 2:
            raise ValueError(
                f"hidden_size is {hidden_size} and layers {layers}: use an even hidden_size >= 2 "
                "(two LSTM directions) and layers >= 1"
            )
        if not bandwidth_hz >= 0:
            raise ValueError(f"bandwidth_hz is {bandwidth_hz}: use a frequency >= 0")
        self.mono = mono
        channels, bins = 1 if mono else self.audio_channels, self.n_fft // 2 + 1
        input_bins = bins_up_to(bandwidth_hz, self.n_fft, self.sample_rate)
        shape = (channels, bins, input_bins, hidden_size, layers, unidirectional)
        self.networks = modules_by_source(self.sources, lambda _: OpenUnmixNetwork(*shape))
        # Saved in the checkpoint, because the statistics are measured only once.
        self.register_buffer("statistics_known", torch.tensor(False))

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate magnitudes (B, S, C, F, N) from the mixture's (B, C, F, N)."""
        inputs = mixture.mean(1, keepdim=True) if self.mono else mixture
        # (B, S, 1 or C, F, N)
        estimates = torch.stack(list(self.run_networks(inputs)), 1)
        return estimates.expand(-1, -1, mixture.shape[1], -1, -1)

    def run_networks(self, mixture: Tensor) -> Iterator[Tensor]:
        """Run the networks on their input (B, C, F, N); yields estimates of the same shape."""
        for network in self.networks.values():
            yield network(mixture)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of magnitudes, mean over bins of complete frames, sum over sources.

        With a sum each network gets the same gradients as if it were trained alone.
        """
        inputs = self.inputs(self.whole_frames(batch.mixture))
        estimates = self.run_networks(inputs)
        pairs = (
            (estimate.float(), self.inputs(self.whole_frames(target)))
            for estimate, target in zip(estimates, batch.targets.unbind(1), strict=True)
        )
        errors = distances_by_source(nn.functional.mse_loss, pairs, batch.known)
        return {"loss": errors.sum(), **self.source_losses(errors)}

    def inputs(self, spectrum: Tensor) -> Tensor:
        """Map spectra (..., C, F, N) to the networks' magnitudes, (..., C or 1, F, N)."""
        magnitudes = self.to_scale(spectrum.abs())
        return magnitudes.mean(-3, keepdim=True) if self.mono else magnitudes

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Initialise the input scaling with mean and deviation of each bin, (F,) each."""
        for network in self.networks.values():
            assert isinstance(network, OpenUnmixNetwork)
            network.input_mean.copy_(-mean[: len(network.input_mean)])
            network.input_scale.copy_(1 / deviation[: len(network.input_scale)])
        self.statistics_known.fill_(True)
