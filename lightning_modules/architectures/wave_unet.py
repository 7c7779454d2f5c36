"""Wave-U-Net: a U-Net of 1-D convolutions on waveforms.

Stoller, Ewert and Dixon 2018, "Wave-U-Net: a multi-scale neural network for end-to-end audio
source separation", with details of the authors' code. The encoder convolves and decimates by 2,
the decoder interpolates by 2 and convolves. Variants M1 to M6 are settings of the arguments, see
``configs/wave_unet``.

With context, convolutions are not padded: with 12 levels the output is the central 16,389 of
147,443 samples, and so is the part of a training crop that counts in the loss. In separation the
mixture is reflect-padded, or zero-padded if it is shorter than the context, so that all samples are
estimated; the authors, who do not split songs into chunks, pad with zeros. Without context,
convolutions are zero-padded, which is many times faster.

Departs from the authors' code: with ``output: difference``, the last source is the mixture minus
the others, where the authors compute the vocals like this; it is not clipped to [-1, 1] in
separation, so that estimates add up to the mixture; learned interpolation starts as linear
interpolation.

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
    """Convolution with leaky ReLU; without padding the output is ``kernel - 1`` samples shorter."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padded: bool) -> None:
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2 if padded else 0)
        super().__init__(_glorot(convolution), nn.LeakyReLU(_LEAK))


class Interpolation(nn.Module):
    """Upsampling by 2 by inserting weighted means of neighbours; repeats the last sample.

    The weight of each channel is learned or 1/2.
    """

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__()
        # Zero logits are weights of 1/2.
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
    """Upsample by 2, concatenate the skip connection, convolve.

    With context, the repeated last sample is dropped and the convolution is not padded.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, context: bool, learned: bool
    ) -> None:
        super().__init__()
        self.context = context
        self.interpolation = Interpolation(inputs, learned)
        self.convolution = Convolution(inputs + outputs, outputs, kernel, not context)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, inputs, N) and a skip (B, outputs, M), M >= 2 N - 1, to (B, outputs, K)."""
        x = self.interpolation(x)
        if self.context:
            x = x[..., :-1]
        joined: Tensor = self.convolution(torch.cat([x, centre(skip, x.shape[-1])], 1))
        return joined


class WaveUNetwork(nn.Module):
    """Maps a waveform to one channel per estimated source and audio channel.

    Of n input samples, n - ``context`` are estimated; n - ``context`` - ``remainder`` must be a
    multiple of ``multiple``. Arguments are as in ``WaveUNet``.
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
        # A decoder level maps n to 2 n - up_kernel samples; an encoder level needs 2 n +
        # down_kernel - 2 samples for n.
        self.remainder = up_kernel if context else 0
        lost = self.multiple * (2 * down_kernel + up_kernel - 3) - (down_kernel + up_kernel - 2)
        self.context = lost if context else 0

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
    """Wave-U-Net for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        levels: Number of levels; each halves the sample rate.
        filters: Filters of the first level; level n has n times as many.
        down_kernel: Kernel size in the encoder, samples, odd.
        up_kernel: Kernel size in the decoder, samples, odd.
        context: Convolve without padding, with more input than output samples.
        output: ``direct`` estimates each source; with ``difference`` the last source is the mixture
            minus the others.
        upsampling: ``linear`` or ``learned`` interpolation.
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
            raise ValueError(f"output is {output!r}: use direct or difference")
        if upsampling not in get_args(Upsampling):
            raise ValueError(f"upsampling is {upsampling!r}: use linear or learned")
        if output == "difference" and len(sources) < 2:
            raise ValueError(
                f"output is difference with only one source, {sources[0]}: its estimate would be "
                "the mixture; use output: direct, or add a second source with the remaining stems"
            )
        if min(levels, filters) < 1 or down_kernel % 2 + up_kernel % 2 < 2:
            raise ValueError(
                f"levels is {levels}, filters {filters}, down_kernel {down_kernel}, up_kernel "
                f"{up_kernel}: use numbers >= 1 and odd kernel sizes"
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
        """Separate mixtures (B, C, T) into estimates (B, S, C, T), ordered as ``self.sources``."""
        network, samples = self.network, mixture.shape[-1]
        # Ceiling division of non-negative integers, which all export formats round the same way.
        steps = (max(0, samples - network.remainder) + network.multiple - 1) // network.multiple
        spare = network.remainder + steps * network.multiple - samples
        left, right = network.context // 2, network.context // 2 + spare
        mode = "reflect" if network.context and right < samples else "constant"
        padded = nn.functional.pad(mixture, (left, right), mode=mode)
        return self.separate_centre(padded)[..., :samples]

    def separate_centre(self, mixture: Tensor) -> Tensor:
        """Estimate the samples with complete context: (B, C, N) to (B, S, C, N - context).

        N must be a valid length, see ``WaveUNetwork``.
        """
        channels = self.network(mixture).to(mixture.dtype)
        # (B, S C, T) -> (B, S, C, T), without the last source if it is the difference.
        estimates: Tensor = channels.unflatten(1, (-1, self.audio_channels))
        if self.output == "direct":
            return estimates
        rest = centre(mixture, estimates.shape[-1]) - estimates.sum(1)
        return torch.cat([estimates, rest[:, None]], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the central samples, which have complete context.

        A crop too short for that is padded as in separation, and all its samples count.
        """
        network, samples = self.network, batch.mixture.shape[-1]
        steps = (samples - network.context - network.remainder) // network.multiple
        if not network.context or steps < 1:
            return super().loss(batch)
        valid = network.context + network.remainder + steps * network.multiple
        estimates = self.separate_centre(centre(batch.mixture, valid))
        central = batch.with_audio(*(centre(signals, estimates.shape[-1]) for signals in batch))
        return self.compared(estimates, central)


def _glorot(convolution: nn.Conv1d) -> nn.Conv1d:
    """Initialise as TensorFlow, which the authors use, does by default."""
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
