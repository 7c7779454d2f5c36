"""MMDenseNet and MMDenseLSTM: dense convolutional networks a source, for each band and for all.

Takahashi and Mitsufuji 2017, "Multi-scale multi-band DenseNets for audio source separation", and
Takahashi, Goswami and Mitsufuji 2018, "MMDenseLSTM: an efficient combination of convolutional and
recurrent neural networks for audio source separation". A band's network is a chain of dense
blocks: down, halving both axes, and up again, where blocks also read those of their size on the
way down. Some blocks of MMDenseLSTM have an LSTM beside their convolutions. What the bands wrote is
stacked along frequency, joined with what a network of the whole spectrum wrote, and read by a
last dense block.

Sizes of blocks, bands and LSTMs are those of the papers' tables as public reimplementations read
them (see the configs). What the papers leave open is as in the same authors' code for D3Net (2021):
a block hands on the maps of its last layer only, down is average pooling, up is batch norm and a
transposed convolution that may drop maps (``compression``), bands with fewer maps than the widest
are brought to its number, and each bin has a learned offset and factor at input and output. Where
that leaves a choice, it is the one that has the parameters of one source in stereo come to the 0.33
and 1.22 million of the papers: MMDenseNet's kernels of 4 bins stand in all layers of a network, not
only in its first; an LSTM's units are those of both directions together; and MMDenseLSTM reads
nothing above 16 kHz, where MUSDB18, coded by AAC, has nothing. So MMDenseNet has 341,498 and
MMDenseLSTM 1,227,380 parameters a source (our count), 337,398 and 1,221,432 without offsets and
factors.

Departs from the papers: all sources are trained at once, on the same examples. Offsets and factors
begin at statistics of the training data, measured once as for Open-Unmix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.base.network_per_source import NetworkPerSource
from lightning_modules.base.standardised_input import StandardisedInput
from lightning_modules.layers.images import to_channels_last, up_to_multiple
from lightning_modules.layers.initialisation import init_nonnegative_


class Dense(TypedDict):
    """A dense block.

    Attributes:
        kernel_size: Size of its convolutions, bins x frames.
        growth: Maps that a layer adds.
        layers: Number of its layers.
    """

    kernel_size: list[int]
    growth: int
    layers: int


class MultiScale(TypedDict):
    """Dense blocks down to the coarsest scale and up again: an odd number, finest scale first.

    Attributes:
        kernel_size: Size of all convolutions, bins x frames.
        filters: Maps of the first convolution, which all blocks follow.
        growth: By block: maps that a layer adds.
        layers: By block: number of its layers.
        lstm_units: By block: units of both directions of its LSTM together, 0 for none; by
            default no block has one.
    """

    kernel_size: list[int]
    filters: int
    growth: list[int]
    layers: list[int]
    lstm_units: NotRequired[list[int]]


class Band(MultiScale):
    """The network of a band, which begins where the one before ends.

    Attributes:
        up_to_hz: Where it ends. Above the last one nothing is read, and estimates are silent.
    """

    up_to_hz: float


# ------------------------------------------------------------------- blocks


def _convolution(inputs: int, outputs: int, kernel_size: Sequence[int]) -> nn.Module:
    """A convolution that keeps the size; an even kernel reaches further up and to the right."""
    height, width = kernel_size
    padding = ((height - 1) // 2, (width - 1) // 2)
    # Without a bias: a batch norm is next.
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=padding, bias=False)
    if height % 2 and width % 2:
        return layer
    return nn.Sequential(nn.ZeroPad2d((0, 1 - width % 2, 0, 1 - height % 2)), layer)


class DenseBlock(nn.Module):
    """Layers that read the input and all layers before them; the last one's maps are the output.

    A layer is batch norm, ReLU, convolution. An LSTM reads the output, and what it makes of it is
    one map more (the arrangement that the paper of 2018 calls Sa).

    Args:
        inputs: Maps that come in.
        shape: Size of the convolutions, maps that a layer adds, number of layers.
        checkpointed: Compute the maps once more in the backward pass, in place of keeping them.
        lstm: The LSTM, if there is one.

    Attributes:
        outputs: Maps that go out.
    """

    def __init__(
        self, inputs: int, shape: Dense, checkpointed: bool, lstm: LSTMBlock | None = None
    ) -> None:
        super().__init__()
        growth, kernel_size = shape["growth"], shape["kernel_size"]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + growth * number),
                nn.ReLU(),
                _convolution(inputs + growth * number, growth, kernel_size),
            )
            for number in range(shape["layers"])
        )
        self.lstm = lstm
        self.checkpointed = checkpointed
        self.outputs = growth + (lstm is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, F, N) to (B, outputs, F, N)."""
        y = self._checkpointed_grow(x) if self.checkpointed else self._grow(x)
        return y if self.lstm is None else torch.cat([y, self.lstm(y)], 1)

    def _grow(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return maps[-1]

    def _checkpointed_grow(self, x: Tensor) -> Tensor:
        again = partial(checkpoint, self._grow, x, use_reentrant=False, preserve_rng_state=False)
        # A compiled second pass updates no statistics anyway, and takes no contexts.
        y: Tensor = again() if torch.compiler.is_compiling() else again(context_fn=self._contexts)
        return y

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_set_aside()

    @contextmanager
    def _statistics_set_aside(self) -> Iterator[None]:
        """Have the second pass update copies of the running statistics: the first has done so."""
        kept = [
            (module, name, statistic)
            for module in self.layers.modules()
            for name, statistic in module.named_buffers(recurse=False)
        ]
        for module, name, statistic in kept:
            setattr(module, name, statistic.clone())
        try:
            yield
        finally:
            for module, name, statistic in kept:
                setattr(module, name, statistic)


class LSTMBlock(nn.Module):
    """All maps as one, its frames read by a bidirectional LSTM and brought back to bins.

    Args:
        inputs: Maps that come in.
        bins: Their frequency bins.
        units: Units of both directions together.
    """

    def __init__(self, inputs: int, bins: int, units: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, 1, 1)
        self.lstm = nn.LSTM(bins, units // 2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(units, bins)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, bins, N) to (B, 1, bins, N)."""
        frames = self.squeeze(x)[:, 0].transpose(1, 2)  # (B, N, bins)
        states: Tensor = self.linear(self.lstm(frames)[0])
        return states.transpose(1, 2)[:, None]


class MultiScaleNetwork(nn.Module):
    """The network of a band, or of the whole spectrum.

    Args:
        channels: Channels of the image.
        bins: Its frequency bins.
        shape: Its blocks.
        compression: Share of the maps that an up-sampling keeps.
        checkpointed: Keep no maps of dense blocks for the backward pass.

    Attributes:
        outputs: Maps that it writes.
    """

    def __init__(
        self, channels: int, bins: int, shape: MultiScale, compression: float, checkpointed: bool
    ) -> None:
        super().__init__()
        kernel_size, depth = shape["kernel_size"], len(shape["layers"]) // 2
        # Each pooling halves both axes, so they must be multiples of this.
        self.multiple = 2**depth
        units = shape.get("lstm_units", [0] * len(shape["layers"]))
        blocks = zip(shape["growth"], shape["layers"], units, strict=True)

        def block(inputs: int, scale: int) -> DenseBlock:
            growth, layers, units = next(blocks)
            scaled = math.ceil(bins / self.multiple) * 2 ** (depth - scale)
            return DenseBlock(
                inputs,
                {"kernel_size": kernel_size, "growth": growth, "layers": layers},
                checkpointed,
                LSTMBlock(growth, scaled, units) if units else None,
            )

        self.first = _convolution(channels, shape["filters"], kernel_size)
        self.pool = nn.AvgPool2d(2)
        self.down, self.rise, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        widths = [shape["filters"]]
        for scale in range(depth):
            self.down.append(down := block(widths[-1], scale))
            widths.append(down.outputs)
        self.bottom = block(widths[-1], depth)
        self.outputs = self.bottom.outputs
        for scale in reversed(range(depth)):
            kept = math.ceil(compression * self.outputs)
            rise = nn.ConvTranspose2d(self.outputs, kept, 2, stride=2, bias=False)
            self.rise.append(nn.Sequential(nn.BatchNorm2d(self.outputs), rise))
            self.up.append(up := block(kept + widths.pop(), scale))
            self.outputs = up.outputs

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, F, N) to (B, outputs, F, N), any N."""
        height, width = image.shape[-2:]
        x: Tensor = self.first(up_to_multiple(image, self.multiple))
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for rise, block in zip(self.rise, self.up, strict=True):
            x = block(torch.cat([rise(x), skips.pop()], 1))
        return x[..., :height, :width]


class MMDenseNetwork(nn.Module):
    """The network of one source: magnitudes of the mixture in, of the source out.

    Args:
        channels: Channels of the spectrograms.
        edges: First bin of each band, and the bin after the last one's last.
        bands: Their networks.
        full: The network of the whole spectrum up to the last edge.
        final: The dense block that reads what these wrote.
        compression: Share of the maps that an up-sampling keeps.
        checkpointed: Keep no maps of dense blocks for the backward pass.
    """

    def __init__(
        self,
        channels: int,
        edges: Sequence[int],
        bands: Sequence[MultiScale],
        full: MultiScale,
        final: Dense,
        compression: float,
        checkpointed: bool,
    ) -> None:
        super().__init__()
        self.sizes = [high - low for low, high in itertools.pairwise(edges)]
        networks = [
            MultiScaleNetwork(channels, size, shape, compression, checkpointed)
            for size, shape in zip(self.sizes, bands, strict=True)
        ]
        self.bands = nn.ModuleList(networks)
        widest = max(network.outputs for network in networks)
        self.match = nn.ModuleList(
            nn.Identity()
            if network.outputs == widest
            else nn.Sequential(
                nn.BatchNorm2d(network.outputs), nn.Conv2d(network.outputs, widest, 1, bias=False)
            )
            for network in networks
        )
        self.full = MultiScaleNetwork(channels, edges[-1], full, compression, checkpointed)
        # The table of 2017 ends with a convolution of 2 bins and 1 frame.
        output = nn.Conv2d(final["growth"], channels, (2, 1))
        init_nonnegative_(output)
        self.final = nn.Sequential(
            DenseBlock(widest + self.full.outputs, final, checkpointed),
            nn.BatchNorm2d(final["growth"]),
            nn.ReLU(),
            nn.ZeroPad2d((0, 0, 0, 1)),
            output,
        )
        # Minus the mean and one by the deviation of each bin, and back: trained on from there.
        zeros, ones = torch.zeros(edges[-1], 1), torch.ones(edges[-1], 1)
        self.input_mean, self.input_scale = nn.Parameter(zeros), nn.Parameter(ones)
        self.output_scale, self.output_mean = (
            nn.Parameter(ones.clone()),
            nn.Parameter(zeros.clone()),
        )
        to_channels_last(self)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape; zero above the bands."""
        bins = len(self.input_mean)
        x = (magnitudes[:, :, :bins] + self.input_mean) * self.input_scale
        parts = zip(self.bands, self.match, x.split(self.sizes, 2), strict=True)
        stacked = torch.cat([match(band(part)) for band, match, part in parts], 2)
        x = self.final(torch.cat([stacked, self.full(x)], 1))
        estimates = torch.relu(x * self.output_scale + self.output_mean)
        return nn.functional.pad(estimates, (0, 0, 0, magnitudes.shape[2] - bins))


# -------------------------------------------------------------------- model


class MMDenseNet(StandardisedInput, NetworkPerSource):
    """MMDenseNets for all sources, or MMDenseLSTMs: a network each, trained together.

    The loss is the squared error of magnitudes, as in the papers.

    Args:
        sources: Names of the sources, in the order of the estimates.
        bands: Networks of the bands, lowest first.
        full: The network of the whole spectrum.
        final: The dense block that reads what these wrote.
        compression: Share of the maps that an up-sampling keeps, in (0, 1].
        checkpoint_activations: Keep no maps of dense blocks for the backward pass, but compute
            them once more: less memory, for more time.
        hop_length: Hop of the STFT, samples.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    changeable_hparams = NetworkPerSource.changeable_hparams | {"checkpoint_activations"}
    tiny: ClassVar[Mapping[str, Any]] = {
        "bands": [
            {"up_to_hz": 4e3, "kernel_size": [4, 3], "filters": 4, "growth": [2, 3, 2],
             "layers": [2, 1, 2], "lstm_units": [0, 4, 0]},
            {"up_to_hz": 16e3, "kernel_size": [3, 3], "filters": 3, "growth": [2, 2, 4],
             "layers": [1, 1, 1]},
        ],
        "full": {"kernel_size": [3, 3], "filters": 3, "growth": [2, 2, 2, 2, 2],
                 "layers": [1, 1, 1, 1, 1], "lstm_units": [0, 0, 0, 2, 0]},
        "final": {"kernel_size": [3, 3], "growth": 2, "layers": 2},
        "n_fft": 512,
        "hop_length": 256,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        bands: list[Band],
        full: MultiScale,
        final: Dense,
        compression: float = 1.0,
        checkpoint_activations: bool = False,
        hop_length: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, hop_length=hop_length, **kwargs)
        if not 0 < compression <= 1:
            raise ValueError(f"compression is {compression}: give a share above 0, at most 1")
        if not bands:
            raise ValueError("bands are empty: give the network of one, or more")
        edges = [0, *(self.bins_below(band["up_to_hz"]) for band in bands)]
        for number, (band, low, high) in enumerate(zip(bands, edges, edges[1:], strict=False)):
            _check_scales(f"bands[{number}]", band, high - low)
        _check_scales("full", full, edges[-1])
        _check_numbers("final", final, [final["growth"], final["layers"]])
        shapes = (edges, bands, full, final, compression, checkpoint_activations)
        self.networks = nn.ModuleDict(
            {name: MMDenseNetwork(self.audio_channels, *shapes) for name in self.sources}
        )
        # In the checkpoint, because the statistics are measured only once.
        self.register_buffer("statistics_known", torch.tensor(False))

    def bins_below(self, frequency_hz: float) -> int:
        """Number of bins below a frequency; all of them from half the sample rate on."""
        if 2 * frequency_hz >= self.sample_rate:
            return self.n_fft // 2 + 1
        return math.ceil(frequency_hz * self.n_fft / self.sample_rate)

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Begin training with bins of mean 0 and deviation 1 at the input, both given as (F,)."""
        for network in self.networks.values():
            assert isinstance(network, MMDenseNetwork)
            bins = len(network.input_mean)
            network.input_mean.copy_(-mean[:bins, None])
            network.input_scale.copy_(1 / deviation[:bins, None])
            network.output_scale.copy_(deviation[:bins, None])
        self.statistics_known.fill_(True)


def _check_scales(name: str, shape: MultiScale | Band, bins: int) -> None:
    """Refuse a network that cannot be built, or not be trained."""
    growth, layers = shape["growth"], shape["layers"]
    units = shape.get("lstm_units", [0] * len(layers))
    if len(layers) % 2 == 0 or not len(growth) == len(layers) == len(units):
        raise ValueError(
            f"{name} has growth for {len(growth)} blocks, layers for {len(layers)} and lstm_units "
            f"for {len(units)}: give the same odd number of each, down to the coarsest scale and "
            "up again"
        )
    _check_numbers(name, shape, [*growth, *layers, shape["filters"]])
    if min(units) < 0 or any(number % 2 for number in units):
        raise ValueError(
            f"{name} has lstm_units {units}: give even numbers, which two directions share, or 0"
        )
    # One bin a map at the coarsest scale would leave batch norm nothing to take statistics of.
    least = 2 ** (len(layers) // 2) + 1
    if bins < least:
        raise ValueError(
            f"{name} has {bins} bins and {len(layers)} blocks, which want {least} or more: raise "
            "its up_to_hz, make n_fft longer, or take scales away"
        )


def _check_numbers(name: str, shape: Dense | MultiScale, numbers: Sequence[int]) -> None:
    kernel_size = shape["kernel_size"]
    if len(kernel_size) != 2:
        raise ValueError(f"{name} has kernel_size {kernel_size}: give [bins, frames]")
    if min(*numbers, *kernel_size) < 1:
        raise ValueError(f"{name} is {dict(shape)}: give numbers from 1 on")
