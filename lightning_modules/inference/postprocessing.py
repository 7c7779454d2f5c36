"""Post-processing of estimates: silence what is likely noise, keep a band of frequencies.

Pourtorkan 2022, "Audio source separation using deep learning", chapter "Post-Processing". A
threshold is the median or the mean of the whole estimate's amplitude envelope, the magnitude of
its analytic signal (Hilbert transform), divided by a softness. Windows move over the estimate; one
is muted if the statistic of the envelope in the window before it and in the one after it both
lie below the threshold; then the one before fades out and the one after fades in. Low-pass and
high-pass filters act on the spectrogram.

The report leaves open what its flowchart, of which only the caption is left, may have told. Here:

- The windows before and after are those that adjoin the window, a window's length away. What is
  in the window itself has no say, as in the text: a sound that lasts no longer than a window, with
  silence on both sides, is taken for noise, so windows are longer than the shortest such sound.
- Where a track ends and there is no window before, or after, the window itself stands in for it.
- All windows are judged by the estimate as it came, not as earlier ones left it, and where muted
  windows and fades overlap the lowest gain counts. So the order in which windows are visited does
  not matter, and a fade's slope does not depend on the hop.
- Fades are straight lines. Channels share their gain, lest the image move; their envelopes are
  averaged. Filters come first, so that the threshold is that of what will be heard.
- Filters keep or drop whole bins, by the frequency at their centre.

The threshold is known only when the last sample is: estimates pass through a temporary file, in
memory as long as that is short, and are muted when they are read back. All is computed on a grid of
blocks that begins with the track, so that it comes out the same however it came in.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

Statistic = Literal["median", "mean"]

# Kept samples of a block, and those on each side that are only looked at.
_ENVELOPE_BLOCK, _ENVELOPE_MARGIN = 2**16 - 2**13, 2**12  # a fast Fourier transform in all
_FILTER_BLOCK, _FILTER_N_FFT = 2**16, 4096
# Counters for the median: numbers are told apart by their exponent and 12 bits more, 0.002 dB.
_DROPPED_BITS = 11
_BYTES_IN_MEMORY = 2**28


class PostProcessing(TypedDict, total=False):
    """Settings; what is left out is off, or as given in brackets.

    Numbers marked * are for all sources, or for some by name: ``{bass: 500.0}``.

    Attributes:
        softness: * Switches muting on: what the statistic is divided by to get the threshold. The
            larger, the less is muted.
        statistic: ``median`` (default, the report's advice) or ``mean`` of the envelope.
        window_seconds: Length of a window, seconds (0.5).
        hop_seconds: How far windows move, seconds, a part of the window (0.125).
        fades: Whether neighbours of muted windows fade (yes).
        low_pass_hz: * Highest frequency that is kept, Hz.
        high_pass_hz: * Lowest frequency that is kept, Hz.
    """

    softness: float | dict[str, float]
    statistic: Statistic
    window_seconds: float
    hop_seconds: float
    fades: bool
    low_pass_hz: float | dict[str, float]
    high_pass_hz: float | dict[str, float]


class PostProcessor:
    """Settings made ready for a model's sources and a sample rate.

    Args:
        settings: The settings.
        sources: Names of the sources.
        sample_rate: Sample rate of the estimates, Hz.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    def __init__(self, settings: PostProcessing, sources: Sequence[str], sample_rate: int) -> None:
        _check_keys(settings)
        softness = _by_source(settings, "softness", sources, math.inf)
        lowest = _by_source(settings, "high_pass_hz", sources, 0.0)
        highest = _by_source(settings, "low_pass_hz", sources, math.inf)
        for name, low, high in zip(sources, lowest, highest, strict=True):
            if low > high:
                raise ValueError(
                    f"postprocessing of {name}: high_pass_hz is {low:g} and low_pass_hz {high:g}: "
                    "nothing would be left; give a high_pass_hz below the low_pass_hz"
                )
        self.statistic = settings.get("statistic", "median")
        if self.statistic not in get_args(Statistic):
            raise ValueError(f"postprocessing.statistic is {self.statistic!r}: give median or mean")
        window, hop = settings.get("window_seconds", 0.5), settings.get("hop_seconds", 0.125)
        self.hop = round(_positive("hop_seconds", hop) * sample_rate)
        self.hops_per_window = round(_positive("window_seconds", window) / hop)
        if (
            self.hop < 1
            or self.hops_per_window < 2
            or abs(window / hop - self.hops_per_window) > 1e-6
        ):
            raise ValueError(
                f"postprocessing.window_seconds is {window:g} and hop_seconds {hop:g} at "
                f"{sample_rate} Hz: give a window of two hops or more, a whole number of them"
            )
        self.window = self.hops_per_window * self.hop
        self.fades = bool(settings.get("fades", True))
        # One by the softness: with 0 nothing is below the threshold.
        self.hardness = 1 / torch.tensor(softness)
        frequencies = torch.arange(_FILTER_N_FFT // 2 + 1) * (sample_rate / _FILTER_N_FFT)
        kept = frequencies >= torch.tensor(lowest)[:, None]
        kept &= frequencies <= torch.tensor(highest)[:, None]
        self.filtered = [row for row, all_kept in enumerate(kept.all(1).tolist()) if not all_kept]
        self.kept = kept[self.filtered][:, None, :, None].float()  # (filtered, 1, F, 1)

    def __call__(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Process estimates that come, and go, piece by piece, in bounded memory.

        Args:
            parts: Consecutive pieces of the estimates, shape (S, C, n), of any length.

        Yields:
            Consecutive pieces of the processed estimates, shape (S, C, m), together as long.
        """
        if self.filtered:
            parts = self._filter(parts)
        if self.hardness.any():
            parts = self._mute(parts)
        yield from parts

    # --------------------------------------------------------------- filters

    def _filter(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Keep the bins between lowest and highest frequency of the sources that have them."""
        edge = _FILTER_N_FFT // 2
        for block, samples in _blocks(parts, _FILTER_BLOCK, 2 * edge):
            window = torch.hann_window(_FILTER_N_FFT, device=block.device)
            waveforms = block[self.filtered].float()  # (filtered, C, T)
            spectrum = torch.stft(
                waveforms.flatten(0, 1),
                _FILTER_N_FFT,
                _FILTER_N_FFT // 4,
                window=window,
                center=False,
                return_complex=True,
            ).unflatten(0, waveforms.shape[:2])
            passed = torch.istft(
                (spectrum * self.kept.to(block.device)).flatten(0, 1),
                _FILTER_N_FFT,
                _FILTER_N_FFT // 4,
                window=window,
                center=True,  # leaves out half a window at each end
                length=block.shape[-1] - 2 * edge,
            ).unflatten(0, waveforms.shape[:2])
            kept = block[..., 2 * edge : 2 * edge + samples].clone()
            kept[self.filtered] = passed[..., edge : edge + samples].to(kept.dtype)
            yield kept

    # ---------------------------------------------------------------- muting

    def _mute(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Find the threshold, and then mute what is below."""
        with tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY) as file:
            stored = _Store(file)
            muted = self.muted(stored.through(parts))
            start = 0
            for part in stored.read():
                gain = self.gain(muted, start, part.shape[-1])
                start += part.shape[-1]
                yield part * gain[:, None].to(part.dtype)

    def muted(self, parts: Iterable[Tensor]) -> Tensor:
        """Tell which windows are muted.

        Args:
            parts: Consecutive pieces of the estimates, shape (S, C, n).

        Returns:
            Booleans, shape (S, K): window k begins at sample k ``hop``. The last one ends with the
            track, and may be shorter.
        """
        whole = _Median() if self.statistic == "median" else _Mean()
        statistics: list[Tensor] = []
        waiting: Tensor | None = None  # of the envelope, from the start of the next window on
        for block, samples in _blocks(parts, _ENVELOPE_BLOCK, _ENVELOPE_MARGIN):
            found = envelope(block)[:, :samples]
            whole.add(found)
            waiting = found if waiting is None else torch.cat([waiting, found], -1)
            if waiting.shape[-1] >= self.window:
                windows = waiting.unfold(-1, self.window, self.hop)  # (S, windows, window)
                statistics.append(self._statistic(windows))
                waiting = waiting[:, windows.shape[1] * self.hop :]
        if waiting is None:
            return torch.zeros(len(self.hardness), 0, dtype=torch.bool)
        # Samples that no window holds yet.
        if not statistics or waiting.shape[-1] > self.window - self.hop:
            statistics.append(self._statistic(waiting[:, None]))
        level = torch.cat(statistics, 1)  # (S, K)
        threshold = whole.value() * self.hardness.to(level.device)
        below = level < threshold[:, None]
        away = min(self.hops_per_window, level.shape[1])
        before = torch.cat([below[:, :away], below[:, :-away]], 1)
        after = torch.cat([below[:, away:], below[:, -away:]], 1)
        return before & after

    def gain(self, muted: Tensor, start: int, samples: int) -> Tensor:
        """Gain of some samples: 0 in muted windows, a ramp beside them, else 1.

        Args:
            muted: Muted windows, shape (S, K).
            start: First sample.
            samples: Number of samples.

        Returns:
            Gains in [0, 1], shape (S, samples).
        """
        number = torch.arange(muted.shape[1], device=muted.device)
        never = 4 + muted.shape[1] + self.hops_per_window  # windows away: beyond all fades
        # Of the muted windows that begin no later, or no earlier, than each the nearest.
        last = torch.where(muted, number, -never).cummax(1).values
        following = torch.where(muted, number, 2 * never).flip(1).cummin(1).values.flip(1)
        beyond = torch.full_like(following[:, :1], 2 * never)
        following = torch.cat([following, beyond], 1)
        time = torch.arange(start, start + samples, device=muted.device)
        window = (time // self.hop).clamp_max(muted.shape[1] - 1)
        after = time - last[:, window] * self.hop - self.window  # samples since the end of muting
        if not self.fades:
            return (after >= 0).float()
        until = following[:, window + 1] * self.hop - time  # samples to the next muting
        return (torch.minimum(after + 1, until) / self.window).clamp(0, 1)

    def _statistic(self, windows: Tensor) -> Tensor:
        """Median, the lower one of two, or mean over the last axis."""
        if self.statistic == "mean":
            return windows.mean(-1)
        return windows.median(-1).values


def envelope(block: Tensor) -> Tensor:
    """Amplitude envelope: magnitude of the analytic signal, the channels' mean.

    The margins fade to zero, so that what is cut off there does not ring: a slow window goes
    through the Hilbert transform unchanged (Bedrosian's theorem).

    Args:
        block: Waveforms with margins, shape (S, C, margin + n + margin). NaN and infinite samples
            count as zero.

    Returns:
        Envelope between the margins, shape (S, n).
    """
    samples, margin = block.shape[-1], _ENVELOPE_MARGIN
    rise = torch.hann_window(2 * margin, device=block.device)[:margin]
    taper = torch.ones(samples, device=block.device)
    taper[:margin], taper[-margin:] = rise, rise.flip(0)
    waveform = taper * block.float().nan_to_num(0.0, 0.0, 0.0)
    # The Hilbert transform turns each positive frequency by -90 degrees.
    turned = torch.fft.irfft(-1j * torch.fft.rfft(waveform), samples)
    return torch.hypot(waveform, turned).mean(1)[:, margin:-margin]


class _Mean:
    """Mean of numbers that come in pieces."""

    def __init__(self) -> None:
        self.sum: Tensor | float = 0.0
        self.count = 0

    def add(self, numbers: Tensor) -> None:
        """Take in numbers (S, n)."""
        self.sum = self.sum + numbers.sum(-1, dtype=torch.float64)
        self.count += numbers.shape[-1]

    def value(self) -> Tensor:
        """The mean, shape (S,)."""
        return torch.as_tensor(self.sum / self.count).float()


class _Median:
    """Median, the lower one of two, of non-negative numbers that come in pieces."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.count = 0

    def add(self, numbers: Tensor) -> None:
        """Take in float32 numbers (S, n)."""
        # Read as integers, non-negative floating-point numbers keep their order.
        bins = numbers.contiguous().view(torch.int32).long() >> _DROPPED_BITS
        if self.counts is None:
            self.counts = bins.new_zeros(len(numbers), 2 ** (31 - _DROPPED_BITS))
        self.counts.scatter_add_(1, bins, torch.ones_like(bins))
        self.count += numbers.shape[-1]

    def value(self) -> Tensor:
        """The median to 0.002 dB, rounded down, shape (S,)."""
        assert self.counts is not None
        rank = (self.count + 1) // 2
        bins = (self.counts.cumsum(1) < rank).sum(1)
        return (bins << _DROPPED_BITS).int().view(torch.float32)


class _Store:
    """Pieces of a stream on their way through a file.

    Args:
        file: The file, open for reading and writing.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.shapes: list[torch.Size] = []

    def through(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Store pieces and hand them on."""
        for part in parts:
            if not part.numel():
                continue
            self.example = part[..., :0]
            self.shapes.append(part.shape)
            self.file.write(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
            yield part

    def read(self) -> Iterator[Tensor]:
        """Hand out the pieces once more."""
        self.file.seek(0)
        for shape in self.shapes:
            data = bytearray(self.file.read(shape.numel() * self.example.element_size()))
            part = torch.frombuffer(data, dtype=self.example.dtype).view(shape)
            yield part.to(self.example.device)


def _blocks(parts: Iterable[Tensor], length: int, margin: int) -> Iterator[tuple[Tensor, int]]:
    """Cut a stream into blocks with what lies around them, zeros where there is nothing.

    Args:
        parts: Consecutive pieces of the stream, shape (S, C, n).
        length: Samples of a block.
        margin: Samples before and after it.

    Yields:
        Block with margins, shape (S, C, margin + length + margin), and how many of its samples
        are the stream's.
    """
    waiting: Tensor | None = None
    left = 0  # samples still to be handed out
    for part in parts:
        if waiting is None:
            waiting = part.new_zeros(*part.shape[:-1], margin)
        waiting = torch.cat([waiting, part], -1)
        left += part.shape[-1]
        while waiting.shape[-1] >= length + 2 * margin:
            yield waiting[..., : length + 2 * margin], length
            waiting = waiting[..., length:]
            left -= length
    while waiting is not None and left > 0:
        missing = length + 2 * margin - waiting.shape[-1]
        waiting = torch.nn.functional.pad(waiting, (0, missing))
        yield waiting, min(length, left)
        waiting = waiting[..., length:]
        left -= length


def _check_keys(settings: Mapping[str, Any]) -> None:
    known = PostProcessing.__annotations__
    if not isinstance(settings, Mapping) or set(settings) - set(known):
        raise ValueError(
            f"postprocessing is {settings!r}: give some of {', '.join(known)} with their values"
        )


def _by_source(
    settings: Mapping[str, Any], key: str, sources: Sequence[str], off: float
) -> list[float]:
    """Numbers of a setting in the order of the sources; ``off`` where none is given."""
    given = settings.get(key)
    if given is None:
        return [off] * len(sources)
    if not isinstance(given, Mapping):
        return [_positive(key, given)] * len(sources)
    unknown = sorted(set(given) - set(sources))
    if unknown:
        raise ValueError(
            f"postprocessing.{key} names {', '.join(unknown)}, the sources are "
            f"{', '.join(sources)}: name some of these"
        )
    return [_positive(f"{key}.{name}", given[name]) if name in given else off for name in sources]


def _positive(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"postprocessing.{key} is {value!r}: give a number above 0")
    return float(value)
