"""Post-processing of estimates: mute windows that are probably noise, and filter frequencies.

After the report Pourtorkan 2022, "Audio source separation using deep learning", chapter
"Post-Processing". A statistic, median or mean, of the estimate's amplitude envelope (magnitude of
the analytic signal) is computed over the complete track and over sliding windows. The threshold is
the statistic of the track divided by a softness. A window is muted if the statistic is below the
threshold in both the preceding and the following window. The preceding window is then faded out
and the following one faded in. Low-pass and high-pass filters set bins of the spectrogram to zero.

The flowchart that the report refers to is not in it. Details that its text does not specify are
implemented as follows:

- The preceding and following windows start one window length before and after. As in the report,
  the window itself is not tested: a sound between silences that is shorter than a window is muted.
  So choose windows no longer than the shortest wanted sound.
- At the start and end of a track, where a neighbour does not exist, the window itself is tested
  instead.
- All windows are tested on the unmuted estimate, so that their order has no effect. Where muted
  windows and fades overlap, the lowest gain applies. The slope of a fade does not depend on the
  hop.
- Fades are linear. All channels get the same gain, computed from the average of their envelopes,
  which preserves the stereo image.
- Filters are applied before muting. They keep or remove entire bins, by centre frequency.

The threshold is known only after the last sample, so the estimates are stored and muted when they
are read back. They are stored in memory up to 256 MiB, and in a temporary file above that. Blocks
are aligned to the start of the track, so that the result does not depend on how the audio is
divided into parts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from lightning_modules.inference.streams import (
    RunningMean,
    RunningMedian,
    StreamStore,
    blocks_with_margins,
    change_spectrum,
)

Statistic = Literal["median", "mean"]

# Length of a block and of each of its two margins, samples. With both margins, the length of an
# envelope block is a power of two.
ENVELOPE_BLOCK, ENVELOPE_MARGIN = 2**16 - 2**13, 2**12
_FILTER_BLOCK, _FILTER_N_FFT = 2**16, 4096
_BYTES_IN_MEMORY = 2**28


class PostProcessing(TypedDict, total=False):
    """Settings. One that is left out is off, or has the default in brackets.

    Settings marked * are one number for all sources, or numbers by source: ``{bass: 500.0}``.

    Attributes:
        softness: * Enables muting. The threshold is the statistic of the complete track divided
            by this number: larger values mute less.
        statistic: ``median`` (default, as the report recommends) or ``mean`` of the envelope.
        window_seconds: Length of a window, seconds (0.5).
        hop_seconds: Hop of the windows, seconds (0.125). A window must be two or more hops, a
            whole number of them.
        fades: Fade out before muted windows and fade in after them (true).
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
    """Post-processing for given sources and sample rate.

    Args:
        settings: The settings.
        sources: Names of the sources.
        sample_rate: Sample rate of the estimates, Hz.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    def __init__(self, settings: PostProcessing, sources: Sequence[str], sample_rate: int) -> None:
        known = PostProcessing.__annotations__
        if not isinstance(settings, Mapping) or set(settings) - set(known):
            raise ValueError(
                f"postprocessing is {settings!r}: must be a mapping with some of the keys "
                f"{', '.join(known)}"
            )
        softness = _by_source(settings, "softness", sources, math.inf)
        lowest = _by_source(settings, "high_pass_hz", sources, 0.0)
        highest = _by_source(settings, "low_pass_hz", sources, math.inf)
        for name, low, high in zip(sources, lowest, highest, strict=True):
            if low > high:
                raise ValueError(
                    f"postprocessing of {name}: high_pass_hz is {low:g} and low_pass_hz {high:g}: "
                    "nothing would remain; high_pass_hz must be below low_pass_hz"
                )
        self.statistic = settings.get("statistic", "median")
        if self.statistic not in get_args(Statistic):
            raise ValueError(
                f"postprocessing.statistic is {self.statistic!r}: must be median or mean"
            )
        window, hop = settings.get("window_seconds", 0.5), settings.get("hop_seconds", 0.125)
        self.hop = round(_positive("hop_seconds", hop) * sample_rate)
        self.hops_per_window = round(_positive("window_seconds", window) / hop)
        whole = abs(window / hop - self.hops_per_window) <= 1e-6
        if self.hop < 1 or self.hops_per_window < 2 or not whole:
            raise ValueError(
                f"postprocessing.window_seconds is {window:g} and hop_seconds {hop:g} at "
                f"{sample_rate} Hz: the window must be two or more hops, a whole number of them"
            )
        self.window = self.hops_per_window * self.hop
        self.fades = bool(settings.get("fades", True))
        # An infinite softness (muting is off) gives 0, which mutes nothing.
        self.threshold_factor = 1 / torch.tensor(softness)
        frequencies = torch.arange(_FILTER_N_FFT // 2 + 1) * (sample_rate / _FILTER_N_FFT)
        kept = frequencies >= torch.tensor(lowest)[:, None]
        kept &= frequencies <= torch.tensor(highest)[:, None]
        self.filtered = [row for row, all_kept in enumerate(kept.all(1).tolist()) if not all_kept]
        self.kept = kept[self.filtered][:, None, :, None].float()  # (filtered, 1, F, 1)

    def __call__(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Process consecutive parts of estimates in bounded memory.

        Args:
            parts: Consecutive parts of the estimates, shape (S, C, n), of any length.

        Yields:
            Consecutive parts of the processed estimates, shape (S, C, m), of the same total length.
        """
        if self.filtered:
            parts = self._filter(parts)
        if self.threshold_factor.any():
            parts = self._mute(parts)
        yield from parts

    # --------------------------------------------------------------- filters

    def _filter(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Zero the bins outside the band of each filtered source."""
        for block, samples in blocks_with_margins(parts, _FILTER_BLOCK, _FILTER_N_FFT):
            passed = change_spectrum(
                block[self.filtered],
                lambda spectrum: spectrum * self.kept.to(spectrum.device),
                _FILTER_N_FFT,
                _FILTER_N_FFT // 4,
            )
            kept = block[..., _FILTER_N_FFT : _FILTER_N_FFT + samples].clone()
            kept[self.filtered] = passed[..., :samples].to(kept.dtype)
            yield kept

    # ---------------------------------------------------------------- muting

    def _mute(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Store the estimates, find the windows to mute, and apply the gains."""
        with tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY) as file:
            stored = StreamStore(file)
            muted = self.muted(stored.write_through(parts))
            start = 0
            for part in stored.read():
                gain = self.gain(muted, start, part.shape[-1])
                start += part.shape[-1]
                yield part * gain[:, None].to(part.dtype)

    def muted(self, parts: Iterable[Tensor]) -> Tensor:
        """Find the windows to mute, from consecutive parts (S, C, n) of the estimates.

        Returns:
            Whether a window is muted, shape (S, K). Window k starts at sample ``k * hop``. The
            last window ends at the end of the track and can be shorter.
        """
        total = RunningMedian() if self.statistic == "median" else RunningMean()
        levels: list[Tensor] = []
        pending: Tensor | None = None  # envelope from the start of the next window on
        for block, samples in blocks_with_margins(parts, ENVELOPE_BLOCK, ENVELOPE_MARGIN):
            found = envelope(block)[:, :samples]
            total.add(found)
            pending = found if pending is None else torch.cat([pending, found], -1)
            if pending.shape[-1] >= self.window:
                windows = pending.unfold(-1, self.window, self.hop)  # (S, windows, window)
                levels.append(self._level(windows))
                pending = pending[:, windows.shape[1] * self.hop :]
        if pending is None:
            return torch.zeros(len(self.threshold_factor), 0, dtype=torch.bool)
        # The remaining samples, in no window yet, form a shorter last window.
        if not levels or pending.shape[-1] > self.window - self.hop:
            levels.append(self._level(pending[:, None]))
        level = torch.cat(levels, 1)  # (S, K)
        threshold = total.value() * self.threshold_factor.to(level.device)
        below = level < threshold[:, None]
        distance = min(self.hops_per_window, level.shape[1])
        before = torch.cat([below[:, :distance], below[:, :-distance]], 1)
        after = torch.cat([below[:, distance:], below[:, -distance:]], 1)
        return before & after

    def gain(self, muted: Tensor, start: int, samples: int) -> Tensor:
        """Return gains (S, samples) from ``start`` on, given which windows (S, K) are muted.

        A gain is 0 in a muted window, rises on a ramp beside it, and is 1 elsewhere.
        """
        number = torch.arange(muted.shape[1], device=muted.device)
        never = 4 + muted.shape[1] + self.hops_per_window  # windows, further than any fade
        # Nearest muted window at or before each window, and at or after it.
        last = torch.where(muted, number, -never).cummax(1).values
        following = torch.where(muted, number, 2 * never).flip(1).cummin(1).values.flip(1)
        beyond = torch.full_like(following[:, :1], 2 * never)
        following = torch.cat([following, beyond], 1)
        time = torch.arange(start, start + samples, device=muted.device)
        window = (time // self.hop).clamp_max(muted.shape[1] - 1)
        after = time - last[:, window] * self.hop - self.window  # samples since a muted window
        if not self.fades:
            return (after >= 0).float()
        until = following[:, window + 1] * self.hop - time  # samples until the next one
        return (torch.minimum(after + 1, until) / self.window).clamp(0, 1)

    def _level(self, windows: Tensor) -> Tensor:
        """Return the lower median, or the mean, over the last axis."""
        return windows.mean(-1) if self.statistic == "mean" else windows.median(-1).values


def envelope(block: Tensor) -> Tensor:
    """Return the amplitude envelope: magnitude of the analytic signal, averaged over channels.

    The margins are tapered to avoid ringing. By Bedrosian's theorem, a slowly varying
    window passes the Hilbert transform H unchanged: H(window * x) = window * H(x).

    Args:
        block: Waveforms with margins, shape (S, C, margin + n + margin). NaN and infinite samples
            are replaced by zero.

    Returns:
        Envelope between the margins, shape (S, n).
    """
    samples, margin = block.shape[-1], ENVELOPE_MARGIN
    rise = torch.hann_window(2 * margin, device=block.device)[:margin]
    taper = torch.ones(samples, device=block.device)
    taper[:margin], taper[-margin:] = rise, rise.flip(0)
    waveform = taper * block.float().nan_to_num(0.0, 0.0, 0.0)
    # The Hilbert transform shifts each positive frequency by -90 degrees.
    turned = torch.fft.irfft(-1j * torch.fft.rfft(waveform), samples)
    return torch.hypot(waveform, turned).mean(1)[:, margin:-margin]


def _by_source(
    settings: Mapping[str, Any], key: str, sources: Sequence[str], off: float
) -> list[float]:
    """Return a setting's number for each source, or ``off`` where the setting is missing."""
    given = settings.get(key)
    if given is None:
        return [off] * len(sources)
    if not isinstance(given, Mapping):
        return [_positive(key, given)] * len(sources)
    unknown = sorted(set(given) - set(sources))
    if unknown:
        raise ValueError(
            f"postprocessing.{key} has unknown sources {', '.join(unknown)}: the sources of the "
            f"model are {', '.join(sources)}"
        )
    return [_positive(f"{key}.{name}", given[name]) if name in given else off for name in sources]


def _positive(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"postprocessing.{key} is {value!r}: must be a number above 0")
    return float(value)
