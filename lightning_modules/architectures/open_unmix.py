"""Open-Unmix: for each source a bidirectional LSTM that scales the mixture's magnitudes.

Stoter, Uhlich, Liutkus and Mitsufuji 2019, "Open-Unmix: a reference implementation for
music source separation", with what their package ``openunmix`` does and the paper does not
print. Networks and separation agree with the package's to rounding, and its weights can be
read (``from_package``).

Departs from the package's training: all sources are trained at once, on the same examples
and with one schedule, which watches the sum of their losses; and training too sees whole
spectrograms, with their edges reflected. With four sources, stereo, 4096-sample windows and
the default size the model has 35,573,392 parameters (our count), 8,893,348 a source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.standardised_input import StandardisedInput

# Between the layers of the LSTM.
_DROPOUT = 0.4


class OpenUnmixNetwork(nn.Module):
    """The network of one source: magnitudes of the mixture in, of the source out.

    Parameters have the names that they have in the package ``openunmix``.

    Args:
        channels: Channels of the spectrograms.
        bins: Frequency bins of the spectrograms.
        input_bins: Lowest bins, which are all that the network reads.
        hidden_size: Width of the dense layers, and of the LSTM's two directions together.
        layers: Layers of the LSTM.
        unidirectional: Look at the past only, with an LSTM of the same width.
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
        # Minus the mean and one by the deviation of each bin: they are trained on from there.
        self.input_mean = nn.Parameter(torch.zeros(input_bins))
        self.input_scale = nn.Parameter(torch.ones(input_bins))
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape."""
        encoded = self.encode(mixture)
        return self.decode(torch.cat([encoded, self.recur(encoded)], -1), mixture)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what comes before and after the LSTM, which no graph can hold.

        Args:
            *args: As for ``torch.compile``.
            **kwargs: As for ``torch.compile``.
        """
        for name in ("encode", "decode"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def encode(self, mixture: Tensor) -> Tensor:
        """Squash magnitudes (B, C, F, N) into frames of numbers in [-1, 1], (N, B, hidden)."""
        x = mixture.permute(3, 0, 1, 2)[..., : len(self.input_mean)]  # -> (N, B, C, F)
        x = (x + self.input_mean) * self.input_scale
        return torch.tanh(_by_frames(self.bn1, self.fc1(x.flatten(2))))

    def recur(self, frames: Tensor) -> Tensor:
        """Run the LSTM over frames (N, B, hidden), shape kept."""
        states: Tensor = self.lstm(frames)[0]
        return states

    def decode(self, joined: Tensor, mixture: Tensor) -> Tensor:
        """Turn frames (N, B, joined) into a mask, and apply it to magnitudes (B, C, F, N)."""
        x = torch.relu(_by_frames(self.bn2, self.fc2(joined)))
        x = _by_frames(self.bn3, self.fc3(x))
        x = x.unflatten(2, (mixture.shape[1], -1))  # (N, B, C F) -> (N, B, C, F)
        mask = torch.relu(x * self.output_scale + self.output_mean)
        return mask.permute(1, 2, 3, 0) * mixture


def _by_frames(norm: nn.BatchNorm1d, frames: Tensor) -> Tensor:
    """Normalise over all frames of all examples, (N, B, hidden) as (N B, hidden)."""
    normed: Tensor = norm(frames.flatten(0, 1))
    return normed.view(frames.shape)


def bins_up_to(frequency_hz: float, n_fft: int, sample_rate: int) -> int:
    """Number of bins from 0 Hz up to a frequency, of n_fft // 2 + 1 at most."""
    return math.floor(min(frequency_hz * n_fft / sample_rate, n_fft // 2)) + 1


class OpenUnmix(StandardisedInput):
    """Open-Unmix for all sources: a network each, trained together.

    Args:
        sources: Names of the sources, in the order of the estimates.
        hidden_size: Width of the dense layers, and of the LSTM's two directions together.
        layers: Layers of the LSTM.
        bandwidth_hz: What lies above is not read; it is written all the same.
        unidirectional: Look at the past only, as a separator in real time must.
        mono: Read the mean of the channels' magnitudes, and write one spectrogram for all.
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
                f"hidden_size is {hidden_size} and layers {layers}: give an even number from 2 "
                "on, which the LSTM's two directions share, and a number from 1 on"
            )
        if not bandwidth_hz >= 0:
            raise ValueError(f"bandwidth_hz is {bandwidth_hz}: give a frequency from 0 Hz on")
        bins = self.n_fft // 2 + 1
        self.mono = mono
        self.networks = nn.ModuleDict(
            {
                name: OpenUnmixNetwork(
                    1 if mono else self.audio_channels,
                    bins,
                    bins_up_to(bandwidth_hz, self.n_fft, self.sample_rate),
                    hidden_size,
                    layers,
                    unidirectional,
                )
                for name in self.sources
            }
        )
        # In the checkpoint, because the statistics are measured only once.
        self.register_buffer("statistics_known", torch.tensor(False))

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Run the networks on magnitudes (B, C, F, N), for estimates (B, S, C, F, N)."""
        read = mixture.mean(1, keepdim=True) if self.mono else mixture
        # (B, S, 1 or C, F, N)
        return self.separated(read).expand(-1, -1, mixture.shape[1], -1, -1)

    def separated(self, mixture: Tensor) -> Tensor:
        """Run the networks on what they read, (B, C, F, N), for (B, S, C, F, N)."""
        return torch.stack([network(mixture) for network in self.networks.values()], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over the sources of the squared error of magnitudes.

        A sum, because each network then gets the gradients that it would get alone.
        """
        estimates = self.magnitudes(self.to_scale(self.stft(batch.mixture).abs()))
        # (B, S, C, F, N) -> (S,)
        errors = self.errors(estimates, batch).square().mean((0, 2, 3, 4))
        return {"loss": errors.sum(), **self.source_losses(errors)}

    def errors(self, estimates: Tensor, batch: Batch) -> Tensor:
        """Estimated less true magnitudes, (B, S, C, F, N)."""
        targets = self.to_scale(self.stft(batch.targets).abs())
        return estimates.float() - (targets.mean(2, keepdim=True) if self.mono else targets)

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Begin training with an input of mean 0 and deviation 1 in each bin, both (F,)."""
        for network in self.networks.values():
            assert isinstance(network, OpenUnmixNetwork)
            network.input_mean.copy_(-mean[: len(network.input_mean)])
            network.input_scale.copy_(1 / deviation[: len(network.input_scale)])
        self.statistics_known.fill_(True)


# ------------------------------------------------------------ the package's files
