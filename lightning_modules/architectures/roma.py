"""Single-network masking from a few frames of context: dnn, cnn1 and cnn2.

Roma, Green and Tremblay 2018, "Improving single-network single-channel separation of musical
audio with convolutional layers". From each frame of a mono spectrogram at 22,050 Hz and its
context, one network estimates the frame's masks for all sources. ``cnn1``, the default, learns
ideal soft masks (equations 8 to 10); ``cnn2`` learns the dominant source of each bin (equations 4
to 7); ``dnn`` has no convolutions, less context and a standardised input.

The paper prints neither filters nor widths. Its parameter counts, about 34 and 38 million, match
three convolutions of 32, 64 and 64 filters, pooled to 64 bins of one frame, then 4100 units
(33,667,864 parameters), and 5 x 1025 inputs to 4100 units (37,830,700).

Masks add up to one, so the sources add up to the mixture: the paper's null test. The paper
separates mono at 22,050 Hz; mono data at that rate give the same here. For other data, masks
are estimated from the same bins of the channels' mean and applied to each channel at the data's
rate, and everything above 11,025 Hz is assigned to one source, so the null test still holds. No
resampling is needed: at twice the rate, a window twice as long has the same bins and frames, plus
bins above.

Departs from the paper: validation uses the tracks of the data's split, where the paper uses a
random fifth of the frames, next to frames of the training set; bins in which all sources are
silent, which have no ideal mask, are excluded from the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.spectrogram import Mask, SpectrogramSeparator
from lightning_modules.base.standardised_input import input_statistics
from lightning_modules.layers.images import to_channels_last
from lightning_modules.layers.masks import masks

Target = Literal["soft", "dominant"]

# Limits memory in separation: the first convolution's output takes 45 KB per filter and frame.
FRAMES_AT_ONCE = 256


class RomaNetwork(nn.Sequential):
    """Maps a frame with its context (B, 1, K, F) to the frame's logits (B, S, F).

    3x3 convolutions with batch norm, ReLU and max pooling, then fully connected layers with
    sigmoids in between; ``filters``, ``pools`` and ``hidden`` are as in ``Roma``.
    """

    def __init__(
        self,
        frames: int,
        bins: int,
        sources: int,
        filters: Sequence[int],
        pools: Sequence[Sequence[int]],
        hidden: Sequence[int],
    ) -> None:
        layers: list[nn.Module] = []
        height, width = frames, bins
        channels = [1, *filters]
        for (before, after), pool in zip(itertools.pairwise(channels), pools, strict=True):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
                nn.MaxPool2d((pool[0], pool[1])),
            ]
            height, width = height // pool[0], width // pool[1]
        if not height * width:
            raise ValueError(
                f"pools {[list(pool) for pool in pools]} reduce {frames} frames and {bins} bins to "
                "nothing: use smaller or fewer pools, or more context_frames"
            )
        layers.append(nn.Flatten())
        for before, after in itertools.pairwise([channels[-1] * height * width, *hidden]):
            layers += [nn.Linear(before, after), nn.Sigmoid()]
        before = hidden[-1] if hidden else channels[-1] * height * width
        super().__init__(
            *layers, nn.Linear(before, sources * bins), nn.Unflatten(1, (sources, bins))
        )
        to_channels_last(self)


class Standardisation(nn.Module):
    """Standardises each bin to mean 0 and deviation 1; the identity until ``set_statistics``."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        # Buffers, because the checkpoint must contain them: they are measured only once.
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("deviation", torch.ones(bins))
        self.register_buffer("measured", torch.tensor(False))
        self.mean: Tensor
        self.deviation: Tensor
        self.measured: Tensor

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Map (..., F, N) to the same shape."""
        return (magnitudes - self.mean[:, None]) / self.deviation[:, None]

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation of each bin, (F,) each."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.measured.fill_(True)


class Roma(SpectrogramSeparator):
    """Masks of all sources from one network on a frame and its context.

    Args:
        sources: Names of the sources, in the order of the estimates.
        sample_rate: Sample rate of mixture and estimates, Hz; a multiple of ``mask_rate``.
        target: Training target: ``soft``, each source's share of each bin, or ``dominant``, the
            dominant source of each bin.
        context_frames: Input frames for the masks of the central one, odd.
        filters: Filters of each 3x3 convolution; empty for fully connected layers only.
        pools: Max pooling after each convolution, frames x bins.
        hidden: Width of each hidden fully connected layer.
        normalize: Standardise each bin of the input with statistics of the training tracks.
        mask_rate: Sample rate at which masks are estimated, Hz.
        n_fft: Length of the STFT's Hann window, samples at ``mask_rate``.
        hop_length: Hop of the STFT, samples at ``mask_rate``.
        mask: ``ratio`` applies the network's masks or probabilities; ``binary`` assigns each bin
            to the dominant source (equation 5).
        high_band_source: Source to which all bins above ``mask_rate`` / 2 are assigned; by default
            the last one.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    changeable_hparams = SpectrogramSeparator.changeable_hparams | {"high_band_source"}
    fixed_arguments = frozenset({"magnitude_scale"})
    tiny: ClassVar[Mapping[str, Any]] = {"hidden": [16], "n_fft": 512, "hop_length": 256}

    def __init__(
        self,
        sources: list[str],
        sample_rate: int = 44100,
        target: Target = "soft",
        context_frames: int = 11,
        filters: Sequence[int] = (32, 64, 64),
        pools: Sequence[Sequence[int]] = ((2, 4), (2, 2), (2, 2)),
        hidden: Sequence[int] = (4100,),
        normalize: bool = False,
        mask_rate: int = 22050,
        n_fft: int = 2048,
        hop_length: int = 256,
        mask: Mask = "ratio",
        high_band_source: str | None = None,
        **kwargs: Any,
    ) -> None:
        if mask_rate < 1 or sample_rate % mask_rate:
            raise ValueError(
                f"sample_rate is {sample_rate}, expected a multiple of the mask_rate {mask_rate}: "
                f"set --data.init_args.sample_rate={2 * mask_rate}, to which audio is resampled"
            )
        factor = sample_rate // mask_rate
        super().__init__(
            sources,
            sample_rate=sample_rate,
            n_fft=factor * n_fft,
            hop_length=factor * hop_length,
            mask=mask,
            magnitude_scale="linear",
            **kwargs,
        )
        if target not in get_args(Target):
            raise ValueError(f"target is {target!r}: use one of {', '.join(get_args(Target))}")
        if mask == "none":
            raise ValueError(
                "mask is 'none', but this model estimates masks only: use ratio or binary"
            )
        if context_frames < 1 or context_frames % 2 == 0:
            raise ValueError(f"context_frames is {context_frames}: use an odd number >= 1")
        if len(filters) != len(pools) or min([1, *filters, *hidden, *itertools.chain(*pools)]) < 1:
            raise ValueError(
                f"filters are {list(filters)}, pools {[list(pool) for pool in pools]} and hidden "
                f"{list(hidden)}: use numbers >= 1, and one pool [frames, bins] per filter"
            )
        high_band = self.sources[-1] if high_band_source is None else high_band_source
        if high_band not in self.sources:
            raise ValueError(
                f"high_band_source is {high_band!r}: use one of {', '.join(self.sources)}"
            )
        self.high_band = self.sources.index(high_band)
        self.target, self.context_frames = target, context_frames
        self.bins = n_fft // 2 + 1
        self.standardisation = Standardisation(self.bins) if normalize else None
        self.network = RomaNetwork(
            context_frames, self.bins, len(self.sources), filters, pools, hidden
        )

    def input_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Magnitudes of the channels' mean, (B, 1, F', N), of spectra (B, C, F', N)."""
        return spectrum.mean(1, keepdim=True).abs()

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate masks (B, S, 1, F', N), not normalised, in place of magnitudes.

        ``mixture`` has the magnitudes of the channels' mean, shape (B, 1, F', N).
        """
        half = self.context_frames // 2
        frames = self.in_context(nn.functional.pad(self.low_band(mixture[:, 0]), (half, half)))
        # An exported program must not fix the number of parts, so it processes all frames at once.
        at_once = max(1, FRAMES_AT_ONCE // frames.shape[0])
        parts = [frames] if torch.compiler.is_exporting() else frames.split(at_once, 1)
        # (B, n, K, F) -> (B n, 1, K, F) -> (B n, S, F) -> (B, n, S, F)
        outputs = [
            self.network(part.flatten(0, 1)[:, None]).unflatten(0, part.shape[:2]) for part in parts
        ]
        scores = torch.cat(outputs, 1).permute(0, 2, 3, 1).float()  # (B, S, F, N)
        shares = scores.sigmoid() if self.target == "soft" else scores.softmax(1)
        above = shares.new_zeros(*shares.shape[:2], mixture.shape[2] - self.bins, shares.shape[3])
        above[:, self.high_band] = 1
        return torch.cat([shares, above], 2)[:, :, None]

    def low_band(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes as at ``mask_rate``: (..., F', N) to (..., F, N)."""
        # Magnitudes are proportional to the window length.
        return magnitudes[..., : self.bins, :] * (2 * (self.bins - 1) / self.n_fft)

    def in_context(self, magnitudes: Tensor) -> Tensor:
        """Standardise frames and stack each with its context: (B, F, N) to (B, N - K + 1, K, F).

        Returns a view, in which each frame is in memory once.
        """
        if self.standardisation is not None:
            magnitudes = self.standardisation(magnitudes)
        # (B, F, N) -> (B, F, N - K + 1, K) -> (B, N - K + 1, K, F)
        return magnitudes.unfold(-1, self.context_frames, 1).permute(0, 2, 3, 1)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of soft masks (equation 10), or negative log likelihood (equation 7).

        Averaged over the frames with complete context; a crop shorter than the context is
        zero-padded, and all its frames count.
        """
        if batch.known is not None:
            raise ValueError(
                "masks are ratios of all sources, so that this model cannot leave out sources: "
                "missing_as_unknown is set; remove it, or choose another model"
            )
        # (B, C, T) -> (B, F, N) and (B, S, C, T) -> (B, S, F, N)
        mixture, targets = (
            self.low_band(self.whole_frames(waveform.mean(-2)).abs()) for waveform in batch
        )
        half = self.context_frames // 2
        if mixture.shape[-1] < self.context_frames:
            mixture = nn.functional.pad(mixture, (half, half))
        else:
            targets = targets[..., half : targets.shape[-1] - half]
        outputs = self.network(self.in_context(mixture).flatten(0, 1)[:, None]).float()
        true = targets.permute(0, 3, 1, 2).flatten(0, 1)  # (B, S, F, n) -> (B n, S, F)
        if self.target == "soft":
            errors = (outputs.sigmoid() - masks(true, "ratio")).square().mean(1)
        else:
            errors = nn.functional.cross_entropy(outputs, true.argmax(1), reduction="none")
        # Where all sources are silent, the ideal mask is 0/0 and no source is dominant.
        active = true.sum(1) > 0
        return {"loss": (errors * active).sum() / active.sum().clamp_min(1)}

    def on_fit_start(self) -> None:
        """Measure the input's statistics once, before the first step."""
        if self.standardisation is not None and not self.standardisation.measured:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            mean, deviation = input_statistics(self, data, self.normalised_magnitudes)
            self.standardisation.set_statistics(mean, deviation)

    def normalised_magnitudes(self, spectrum: Tensor) -> Tensor:
        """Magnitudes whose statistics are measured: spectra (C, F', N) to (F, N)."""
        return self.low_band(spectrum.mean(0).abs())
