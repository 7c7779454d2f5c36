"""Wave-U-Net.

Stoller, Ewert and Dixon 2018, "Wave-U-Net: a multi-scale neural network for end-to-end audio
source separation", with the details of the authors' code. Levels of convolution and decimation by
two lead down, levels of interpolation by two and convolution lead up again, and the waveforms of
the sources come out. Variants M1 to M6 are arguments and stand in ``configs``.

With context, convolutions are not padded: 12 levels make 16,389 samples of 147,443, those in the
middle. A training crop is the 147,443, and its loss is that of the middle. In separation the
mixture is continued by its mirror image where there is none left, by zeros if it is shorter than
the context, so that all of it is estimated; the paper's authors, who do not cut songs into chunks,
take zeros. Without context, convolutions are padded with zeros, which is many times as fast.

Departs from the authors' code: the source that is what the others leave of the mixture is the
last one named, theirs is the vocals; it is not clipped to [-1, 1] in separation, so that estimates
add up to the mixture; learned interpolation begins as linear interpolation.

With mono, two sources, context and linear interpolation (M3) the network has 10,263,002
parameters (our count).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.layers.cropping import centre

Output = Literal["direct", "difference"]
Upsampling = Literal["linear", "learned"]

_LEAK = 0.2


class Convolution(nn.Sequential):
    """A convolution with leaky ReLU; one that is not padded makes ``kernel - 1`` samples fewer.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Length of the filters, samples, odd.
        padded: Pad with zeros to the length that came in.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padded: bool) -> None:
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2 if padded else 0)
        super().__init__(_glorot(convolution), nn.LeakyReLU(_LEAK))


class Interpolation(nn.Module):
    """Put a sample between each two, and one more, equal to the last, behind them.

    Args:
        channels: Channels that come in.
        learned: Learn for each channel what shares the two have in the sample between.
    """

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        # Halves, until they have learned something else.
        self.logits = nn.Parameter(torch.zeros(channels, 1)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, N) to (B, channels, 2 N)."""
        following = torch.cat([x[..., 1:], x[..., -1:]], -1)
        if self.logits is None:
            between = (x + following) / 2
        else:
            between = torch.lerp(following, x, self.logits.sigmoid().to(x))
        return torch.stack([x, between], -1).flatten(-2)


class UpBlock(nn.Module):
    """Double the rate, join the encoder's output, convolve.

    Args:
        inputs: Channels that come in.
        outputs: Channels of the encoder's output, and channels that go out.
        kernel: Length of the filters, samples.
        context: Convolve without padding, and leave out what has no sample behind it.
        learned: Learn the interpolation.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, context: bool, learned: bool
    ) -> None:
        super().__init__()
        self.context = context
        self.interpolation = Interpolation(inputs, learned)
        self.convolution = Convolution(inputs + outputs, outputs, kernel, not context)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, inputs, N) and a skip (B, outputs, M), M from 2 N - 1 on, to (B, outputs, K)."""
        x = self.interpolation(x)
        if self.context:
            x = x[..., :-1]
        joined: Tensor = self.convolution(torch.cat([x, centre(skip, x.shape[-1])], 1))
        return joined


class WaveUNetwork(nn.Module):
    """The network: waveforms in, a channel for each source and audio channel out.

    Of n samples that come in, n - ``context`` come out; n - ``context`` - ``remainder`` has to be
    a multiple of ``multiple``.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        levels: Times that the rate is halved.
        filters: Filters of the first level; each level has as many more.
        down_kernel: Length of filters in the encoder, samples, odd.
        up_kernel: Length of filters in the decoder, samples, odd.
        context: Convolve without padding.
        learned: Learn the interpolation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        levels: int,
        filters: int,
        down_kernel: int,
        up_kernel: int,
        context: bool,
        learned: bool,
    ) -> None:
        super().__init__()
        channels = [filters * level for level in range(1, levels + 2)]
        self.encoder = nn.ModuleList(
            Convolution(before, after, down_kernel, not context)
            for before, after in itertools.pairwise([inputs, *channels[:-1]])
        )
        self.bottom = Convolution(channels[-2], channels[-1], down_kernel, not context)
        self.decoder = nn.ModuleList(
            UpBlock(before, after, up_kernel, context, learned)
            for before, after in itertools.pairwise(reversed(channels))
        )
        self.output = nn.Sequential(_glorot(nn.Conv1d(channels[0] + inputs, outputs, 1)), nn.Tanh())
        self.multiple = 2**levels
        # A level up makes 2 n - up_kernel of n samples, one down needs 2 n + down_kernel - 2 for n.
        self.remainder = up_kernel if context else 0
        self.context = 0
        if context:
            self.context = self.multiple * (2 * down_kernel + up_kernel - 3)
            self.context -= down_kernel + up_kernel - 2

    def forward(self, waveform: Tensor) -> Tensor:
        """Map (B, inputs, N) to (B, outputs, N - context), in [-1, 1]."""
        x = waveform
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = x[..., ::2]
        x = self.bottom(x)
        for block in self.decoder:
            x = block(x, skips.pop())
        estimates: Tensor = self.output(torch.cat([x, centre(waveform, x.shape[-1])], 1))
        return estimates


class WaveUNet(WaveformSeparator):
    """Wave-U-Net: waveforms in, waveforms out.

    Args:
        sources: Names of the sources, in the order of the estimates.
        levels: Times that the rate is halved.
        filters: Filters of the first level; each level has as many more.
        down_kernel: Length of filters in the encoder, samples, odd.
        up_kernel: Length of filters in the decoder, samples, odd.
        context: Convolve without padding, on more of the mixture than is estimated.
        output: ``direct`` estimates each source; with ``difference`` the last one is what the
            others leave of the mixture, so that estimates add up to it.
        upsampling: ``linear``, or ``learned``: the shares of two samples in the one between.
        **kwargs: Arguments of ``WaveformSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"levels": 3, "filters": 4}

    def __init__(
        self,
        sources: list[str],
        levels: int = 12,
        filters: int = 24,
        down_kernel: int = 15,
        up_kernel: int = 5,
        context: bool = True,
        output: Output = "difference",
        upsampling: Upsampling = "linear",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if output not in get_args(Output):
            raise ValueError(f"output is {output!r}: give direct or difference")
        if upsampling not in get_args(Upsampling):
            raise ValueError(f"upsampling is {upsampling!r}: give linear or learned")
        if output == "difference" and len(sources) < 2:
            raise ValueError(
                f"output is difference with one source, {sources[0]}: its estimate would be the "
                "mixture; use output: direct, or name a second source that holds the rest"
            )
        if min(levels, filters) < 1 or down_kernel % 2 + up_kernel % 2 < 2:
            raise ValueError(
                f"levels is {levels}, filters {filters}, down_kernel {down_kernel}, up_kernel "
                f"{up_kernel}: give numbers from 1 on, and odd lengths of kernels"
            )
        self.output = output
        estimated = len(sources) - (output == "difference")
        self.network = WaveUNetwork(
            self.audio_channels,
            estimated * self.audio_channels,
            levels,
            filters,
            down_kernel,
            up_kernel,
            context,
            upsampling == "learned",
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        network, samples = self.network, mixture.shape[-1]
        # Rounded up in whole numbers from 0 on, which all exported programs divide alike.
        steps = (max(0, samples - network.remainder) + network.multiple - 1) // network.multiple
        spare = network.remainder + steps * network.multiple - samples
        before, behind = network.context // 2, network.context // 2 + spare
        mode = "reflect" if network.context and behind < samples else "constant"
        padded = nn.functional.pad(mixture, (before, behind), mode=mode)
        return self.inner(padded)[..., :samples]

    def inner(self, mixture: Tensor) -> Tensor:
        """Estimate those samples of a mixture that have all their context.

        Args:
            mixture: Waveform of a length that the network takes, shape (B, C, N).

        Returns:
            Estimates of the middle, shape (B, S, C, N - context).
        """
        channels = self.network(mixture).to(mixture.dtype)
        # (B, S C, T) -> (B, S, C, T), S one less where the last source is the difference.
        estimates: Tensor = channels.unflatten(1, (-1, self.audio_channels))
        if self.output == "direct":
            return estimates
        rest = centre(mixture, estimates.shape[-1]) - estimates.sum(1)
        return torch.cat([estimates, rest[:, None]], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the samples in the middle that have all their context.

        A crop that hardly holds the context of any counts as a whole, padded as in separation.
        """
        network, samples = self.network, batch.mixture.shape[-1]
        steps = (samples - network.context - network.remainder) // network.multiple
        if not network.context or steps < 1:
            return super().loss(batch)
        taken = network.context + network.remainder + steps * network.multiple
        estimates = self.inner(centre(batch.mixture, taken))
        return self.compared(
            estimates, Batch(*(centre(signals, estimates.shape[-1]) for signals in batch))
        )


def _glorot(convolution: nn.Conv1d) -> nn.Conv1d:
    """Draw weights as the authors' framework does by default."""
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
