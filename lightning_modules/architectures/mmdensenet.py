"""MMDenseNet and MMDenseLSTM: multi-band dense convolutional networks, one per source.

Takahashi and Mitsufuji 2017, "Multi-scale multi-band DenseNets for audio source separation", and
Takahashi, Goswami and Mitsufuji 2018, "MMDenseLSTM: an efficient combination of convolutional and
recurrent neural networks for audio source separation". Each frequency band, and the full spectrum,
has a U-Net of dense blocks. In MMDenseLSTM some blocks have an LSTM after their convolutions. The
outputs of the bands are stacked along frequency, concatenated with the output of the full
spectrum's network and passed to a final dense block.

Sizes of blocks, bands and LSTMs are those of the papers' tables as public reimplementations read
them (see the configs). Details that the papers leave open follow the same authors' code for D3Net
(2021): a block outputs the maps of its last layer only, downsampling is average pooling, upsampling
is batch norm and a transposed convolution that may reduce the number of maps (``compression``),
bands with fewer maps than the widest are projected to its number, and each bin has a learned
offset and scale at input and output. Remaining choices are those that match the papers' 0.33 and
1.22 million parameters per source in stereo: where MMDenseNet has kernels of 4 bins, all layers of
that network have them, not only the first; LSTM units count both directions together; and
MMDenseLSTM ignores bins above 16 kHz, where MUSDB18 is empty because of its AAC coding. MMDenseNet
then has 341,498 and MMDenseLSTM 1,227,380 parameters per source (our count); 337,398 and 1,221,432
without offsets and scales.

Departs from the papers: all sources are trained jointly, on the same examples. Offsets and scales
are initialised with statistics of the training data, as in Open-Unmix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from lightning_modules.base.network_per_source import NetworkPerSource
from lightning_modules.base.standardised_input import StandardisedInput
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.checkpointing import checkpointed
from lightning_modules.layers.images import to_channels_last, up_to_multiple
from lightning_modules.layers.initialisation import init_nonnegative_


class Dense(TypedDict):
    """Settings of a dense block.

    Attributes:
        kernel_size: Kernel size of the convolutions, bins x frames.
        growth: Growth rate: maps per layer.
        layers: Number of layers.
    """

    kernel_size: list[int]
    growth: int
    layers: int


class MultiScale(TypedDict):
    """Settings of a U-Net of dense blocks, from the finest scale to the coarsest and back.

    Attributes:
        kernel_size: Kernel size of all convolutions, bins x frames.
        filters: Filters of the first convolution.
        growth: Growth rate of each block; an odd number of blocks.
        layers: Number of layers of each block.
        lstm_units: Units of each block's LSTM, both directions together; 0 for no LSTM. By
            default no block has one.
    """

    kernel_size: list[int]
    filters: int
    growth: list[int]
    layers: list[int]
    lstm_units: NotRequired[list[int]]


class Band(MultiScale):
    """Settings of a band's network; the band starts where the previous one ends.

    Attributes:
        up_to_hz: Upper edge, Hz. Bins above the last band are ignored and zero in the estimates.
    """

    up_to_hz: float


def _convolution(inputs: int, outputs: int, kernel_size: Sequence[int]) -> nn.Module:
    """Same-size convolution; an even kernel is padded by one more at the top and on the right."""
    height, width = kernel_size
    padding = ((height - 1) // 2, (width - 1) // 2)
    # No bias, because a batch norm follows.
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=padding, bias=False)
    if height % 2 and width % 2:
        return layer
    return nn.Sequential(nn.ZeroPad2d((0, 1 - width % 2, 0, 1 - height % 2)), layer)


class DenseBlock(nn.Module):
    """Dense block of batch norm, ReLU and convolution; the last layer's maps are the output.

    An LSTM, if any, adds one map computed from the output (arrangement Sa of the 2018 paper).
    ``inputs`` and ``outputs`` are numbers of maps.
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
        y = checkpointed(self, self._grow, x) if self.checkpointed else self._grow(x)
        return y if self.lstm is None else torch.cat([y, self.lstm(y)], 1)

    def _grow(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return maps[-1]


class LSTMBlock(nn.Module):
    """1x1 convolution to one map, bidirectional LSTM over frames, dense layer back to bins."""

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
    """U-Net of dense blocks, for a band or the full spectrum; ``outputs`` is its number of maps."""

    def __init__(
        self, channels: int, bins: int, shape: MultiScale, compression: float, checkpointed: bool
    ) -> None:
        super().__init__()
        kernel_size, depth = shape["kernel_size"], len(shape["layers"]) // 2
        # Downsampling factor of the poolings; images are padded to multiples of it.
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
    """The network of one source: maps the mixture's magnitudes to the source's.

    ``edges`` are the first bin of each band and the first bin above the last band; other arguments
    are as in ``MMDenseNet``.
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
        # The last row of the 2017 paper's table: a convolution over 2 bins and 1 frame.
        output = nn.Conv2d(final["growth"], channels, (2, 1))
        init_nonnegative_(output)
        self.final = nn.Sequential(
            DenseBlock(widest + self.full.outputs, final, checkpointed),
            nn.BatchNorm2d(final["growth"]),
            nn.ReLU(),
            nn.ZeroPad2d((0, 0, 0, 1)),
            output,
        )
        # Offset and scale per bin, initialised by ``standardise`` and trained.
        self.input_mean = nn.Parameter(torch.zeros(edges[-1], 1))
        self.input_scale = nn.Parameter(torch.ones(edges[-1], 1))
        self.output_scale = nn.Parameter(torch.ones(edges[-1], 1))
        self.output_mean = nn.Parameter(torch.zeros(edges[-1], 1))
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


class MMDenseNet(StandardisedInput, NetworkPerSource):
    """MMDenseNets or MMDenseLSTMs, one per source, trained jointly.

    The loss is the squared error of magnitudes, as in the papers.

    Args:
        sources: Names of the sources, in the order of the estimates.
        bands: Networks of the bands, lowest first.
        full: Network of the full spectrum.
        final: Final dense block, after bands and full spectrum.
        compression: Fraction of maps that each upsampling keeps, in (0, 1].
        checkpoint_activations: Recompute the activations of dense blocks in the backward pass:
            less memory, longer steps.
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
            raise ValueError(f"compression is {compression}: use a fraction in (0, 1]")
        if not bands:
            raise ValueError("bands is empty: use at least one band")
        edges = [0, *(self.bins_below(band["up_to_hz"]) for band in bands)]
        for number, (band, low, high) in enumerate(zip(bands, edges, edges[1:], strict=False)):
            _check_scales(f"bands[{number}]", band, high - low)
        _check_scales("full", full, edges[-1])
        _check_numbers("final", final, [final["growth"], final["layers"]])
        shapes = (edges, bands, full, final, compression, checkpoint_activations)
        self.networks = modules_by_source(
            self.sources, lambda _: MMDenseNetwork(self.audio_channels, *shapes)
        )
        # Saved in the checkpoint, because the statistics are measured only once.
        self.register_buffer("statistics_known", torch.tensor(False))

    def bins_below(self, frequency_hz: float) -> int:
        """Number of bins below a frequency; all bins from the Nyquist frequency on."""
        if 2 * frequency_hz >= self.sample_rate:
            return self.n_fft // 2 + 1
        return math.ceil(frequency_hz * self.n_fft / self.sample_rate)

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Initialise offsets and scales with mean and deviation of the input, (F,) each."""
        for network in self.networks.values():
            assert isinstance(network, MMDenseNetwork)
            bins = len(network.input_mean)
            network.input_mean.copy_(-mean[:bins, None])
            network.input_scale.copy_(1 / deviation[:bins, None])
            network.output_scale.copy_(deviation[:bins, None])
        self.statistics_known.fill_(True)


def _check_scales(name: str, shape: MultiScale | Band, bins: int) -> None:
    """Raise a ValueError for settings of which no network can be built or trained."""
    growth, layers = shape["growth"], shape["layers"]
    units = shape.get("lstm_units", [0] * len(layers))
    if len(layers) % 2 == 0 or not len(growth) == len(layers) == len(units):
        raise ValueError(
            f"{name} has growth for {len(growth)} blocks, layers for {len(layers)} and lstm_units "
            f"for {len(units)}: use the same odd number for all, from the finest scale to the "
            "coarsest and back"
        )
    _check_numbers(name, shape, [*growth, *layers, shape["filters"]])
    if min(units) < 0 or any(number % 2 for number in units):
        raise ValueError(
            f"{name} has lstm_units {units}: use even numbers (two directions), or 0 for no LSTM"
        )
    # Batch norm needs more than one bin per map at the coarsest scale.
    least = 2 ** (len(layers) // 2) + 1
    if bins < least:
        raise ValueError(
            f"{name} has {bins} bins, its {len(layers)} blocks need at least {least}: raise "
            "up_to_hz or n_fft, or use fewer blocks"
        )


def _check_numbers(name: str, shape: Dense | MultiScale, numbers: Sequence[int]) -> None:
    kernel_size = shape["kernel_size"]
    if len(kernel_size) != 2:
        raise ValueError(f"{name} has kernel_size {kernel_size}: expected [bins, frames]")
    if min(*numbers, *kernel_size) < 1:
        raise ValueError(f"{name} is {dict(shape)}: use numbers >= 1")
