"""Plots of sound: spectrograms, masks, levels and waveforms.

Figures are created as `matplotlib.figure.Figure`, without pyplot, whose global state is not
thread-safe and may need a display.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_modules.evaluation.bands import band_centres, band_energies
from lightning_modules.plots.style import (
    BASELINE_COLOUR,
    DIFFERENCE_COLOURS,
    DPI,
    MIXTURE_COLOUR,
    MODEL_COLOUR,
    new_figure,
)

_Signal = NDArray[np.floating]

_LEVEL_COLOURS = matplotlib.colormaps["magma"]
_MASK_COLOURS = matplotlib.colormaps["viridis"].with_extremes(bad="0.87")
_DYNAMIC_RANGE_DB = 80.0
_DIFFERENCE_FLOOR_DB, _LARGEST_DIFFERENCE_DB = 60.0, 30.0
_LOWEST_HZ, _HIGHEST_HZ = 30.0, 16_000.0
_BANDS = 240
_FREQUENCY_TICKS_HZ = {50: "50", 200: "200", 1000: "1k", 5000: "5k", 15000: "15k"}
_REFERENCE_FACE, _ESTIMATE_COLOUR = "#6f9fd8", "#d1530f"


def spectrogram_figure(
    mixture: _Signal,
    references: _Signal,
    estimates: _Signal,
    sources: Sequence[str],
    sample_rate: int,
    title: str,
) -> Figure:
    """Draw spectrograms: the mixture on top, then each source's reference and estimate.

    Levels are in dB below the maximum of the mixture, on the same scale in all panels; the
    frequency axis is logarithmic.

    Args:
        mixture: Waveform, nominally in [-1, 1], shape (C, T).
        references: True sources, shape (S, C, T).
        estimates: Estimates, shape (S, C, T).
        sources: Names of the sources, length S.
        sample_rate: Samples per second.
        title: Title of the figure.

    Returns:
        The figure, 1200 pixels wide.
    """
    figure = new_figure(title, 0.8 + 1.75 * (len(sources) + 1))
    panels = figure.subplot_mosaic([["mixture", "mixture"], *_pair_names(sources)])
    mixture_power = _band_power(mixture, sample_rate, columns=1000)
    loudest = max(float(mixture_power.max()), 1e-12)
    axes = panels.pop("mixture")
    _draw_spectrogram(axes, mixture_power, loudest, mixture.shape[-1] / sample_rate)
    axes.set_title("mixture", fontsize=10)
    signals = [signal for pair in zip(references, estimates, strict=True) for signal in pair]
    for axes, signal in zip(panels.values(), signals, strict=True):
        power = _band_power(signal, sample_rate, columns=500)
        _draw_spectrogram(axes, power, loudest, signal.shape[-1] / sample_rate)
    _label_pairs(figure, panels, "dB re maximum of the mixture")
    return figure


def _pair_names(sources: Sequence[str]) -> list[Any]:
    """Names of the panels of each source, in two columns."""
    return [[f"{source}: reference", f"{source}: estimate"] for source in sources]


def _label_pairs(figure: Figure, panels: Mapping[str, Axes], label: str) -> None:
    """Label the outer axes of panels in two columns, and add a colour bar for all of the figure."""
    for number, (name, axes) in enumerate(panels.items()):
        axes.set_title(name, fontsize=10)
        last = number >= len(panels) - 2
        axes.set_xlabel("time (s)" if last else "")
        axes.tick_params(labelleft=number % 2 == 0, labelbottom=last)
    figure.supylabel("frequency (Hz)", fontsize=10)
    image = figure.axes[0].images[0]
    figure.colorbar(image, ax=figure.axes, label=label, aspect=50, pad=0.01)


def mask_figure(
    mixture: _Signal,
    references: _Signal,
    estimates: _Signal,
    sources: Sequence[str],
    sample_rate: int,
    title: str,
) -> Figure:
    """Draw masks: the share of each source, and of its estimate, in the mixture.

    A mask is |S| / |X|, at most 1, with the magnitudes S of a source and X of the mixture in
    frequency bands. It is the mask of a masking model, and the equivalent for any other model;
    phase is ignored. Bins in which the mixture is 80 dB below its maximum are grey. Arguments are
    those of `spectrogram_figure`.
    """
    figure = new_figure(title, 0.8 + 1.75 * len(sources))
    panels = figure.subplot_mosaic(_pair_names(sources))
    mixed = _band_power(mixture, sample_rate, columns=500)
    quietest = max(float(mixed.max()), 1e-12) * 10 ** (-_DYNAMIC_RANGE_DB / 10)
    signals = [signal for pair in zip(references, estimates, strict=True) for signal in pair]
    for axes, signal in zip(panels.values(), signals, strict=True):
        power = _band_power(signal, sample_rate, columns=500)
        shares = np.sqrt(np.minimum(power / np.maximum(mixed, quietest), 1))
        masked = np.ma.masked_where(mixed < quietest, shares)
        _draw_image(axes, masked, signal.shape[-1] / sample_rate, _MASK_COLOURS, (0, 1))
    _label_pairs(figure, panels, "share of the mixture")
    return figure


def difference_figure(
    mixture: _Signal,
    references: _Signal,
    estimates: _Signal,
    sources: Sequence[str],
    sample_rate: int,
    title: str,
) -> Figure:
    """Draw the level of each estimate relative to its reference: what is missing, and what leaks.

    Values are in dB on a scale with white at 0, negative ones blue. Levels more than 60 dB below
    the maximum of the mixture are raised to this floor, so that inaudible differences are white.
    Arguments are those of `spectrogram_figure`.
    """
    figure = new_figure(title, 0.8 + 1.75 * len(sources))
    panels = figure.subplots(len(sources), 1, sharex=True, squeeze=False)[:, 0]
    mixed = _band_power(mixture, sample_rate, columns=1000)
    floor = max(float(mixed.max()), 1e-12) * 10 ** (-_DIFFERENCE_FLOOR_DB / 10)
    for axes, source, *signals in zip(panels, sources, references, estimates, strict=True):
        true, found = (
            np.maximum(_band_power(signal, sample_rate, columns=1000), floor) for signal in signals
        )
        seconds = mixture.shape[-1] / sample_rate
        limits = (-_LARGEST_DIFFERENCE_DB, _LARGEST_DIFFERENCE_DB)
        _draw_image(axes, 10 * np.log10(found / true), seconds, DIFFERENCE_COLOURS, limits)
        axes.set_title(source, fontsize=10)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("frequency (Hz)", fontsize=10)
    label = "estimate re reference (dB)"
    image = panels[0].images[0]
    figure.colorbar(image, ax=panels.tolist(), label=label, aspect=50, pad=0.01, extend="both")
    return figure


def denoising_figure(
    clean: _Signal, noisy: _Signal, denoised: _Signal, sample_rate: int, title: str
) -> Figure:
    """Draw spectrograms of clean, noisy and denoised music, and their third-octave levels below.

    Both are in dB below the maximum of the clean signal. Waveforms have shape (C, T).
    """
    figure = new_figure(title, 7)
    grid = figure.add_gridspec(2, 3, height_ratios=(1.1, 1))
    signals = {"clean": clean, "noisy": noisy, "denoised": denoised}
    powers = [_band_power(signal, sample_rate, columns=400) for signal in signals.values()]
    loudest = max(float(powers[0].max()), 1e-12)
    panels = []
    for column, (name, power) in enumerate(zip(signals, powers, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        _draw_spectrogram(axes, power, loudest, clean.shape[-1] / sample_rate)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("time (s)")
        axes.tick_params(labelleft=column == 0)
        panels.append(axes)
    panels[0].set_ylabel("frequency (Hz)")
    label = "dB re maximum of clean"
    figure.colorbar(panels[0].images[0], ax=panels, label=label, pad=0.01)

    levels = figure.add_subplot(grid[1, :])
    energies = [band_energies(signal, sample_rate, 3) for signal in signals.values()]
    reference = max(float(energies[0].max()), 1e-12)
    colours = (MODEL_COLOUR, BASELINE_COLOUR, _ESTIMATE_COLOUR)
    for name, energy, colour in zip(signals, energies, colours, strict=True):
        decibels = 10 * np.log10(np.maximum(energy / reference, 1e-12))
        levels.semilogx(band_centres(sample_rate, 3), decibels, color=colour, label=name)
    levels.set_xticks(list(_FREQUENCY_TICKS_HZ), list(_FREQUENCY_TICKS_HZ.values()), minor=False)
    levels.set_xticks([], minor=True)
    levels.set(ylim=(-60, 10), xlabel="frequency (Hz)", ylabel="level of a third octave (dB)")
    levels.grid(color="0.9")
    levels.legend(frameon=False)
    return figure


def waveform_figure(
    mixture: _Signal,
    references: _Signal,
    estimates: _Signal,
    sources: Sequence[str],
    sample_rate: int,
    title: str,
) -> Figure:
    """Draw waveforms: for each source its estimate over its reference over the mixture.

    Arguments are those of `spectrogram_figure`.
    """
    figure = new_figure(title, 1.0 + 1.6 * len(sources))
    panels = figure.subplots(len(sources), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for row, (axes, source) in enumerate(zip(panels, sources, strict=True)):
        filled = (
            (mixture, MIXTURE_COLOUR, "mixture"),
            (references[row], _REFERENCE_FACE, "reference"),
        )
        for signal, colour, label in filled:
            envelope = _envelope(signal, sample_rate)
            axes.fill_between(*envelope, color=colour, linewidth=0, label=label)
        # An outline, because a third fill would hide the reference.
        seconds, lowest, highest = _envelope(estimates[row], sample_rate)
        axes.plot(seconds, lowest, color=_ESTIMATE_COLOUR, linewidth=0.8, label="estimate")
        axes.plot(seconds, highest, color=_ESTIMATE_COLOUR, linewidth=0.8)
        axes.set_ylabel(source)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("time (s)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def track_strips(tracks: Iterable[_Signal], sample_rate: int) -> Iterator[Figure]:
    """Draw a spectrogram of each track without axes, for the web player.

    It extends from edge to edge, so that a playhead on top shows the time. The first track, the
    mixture, sets the scale of all. Tracks (C, T) are read one at a time, because they may not fit
    into memory.

    Yields:
        The spectrogram of each track.
    """
    loudest = 0.0
    for signal in tracks:
        power = _band_power(signal, sample_rate, columns=1000)
        loudest = loudest or max(float(power.max()), 1e-12)
        figure = Figure(figsize=(12, 1.6), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        _draw_spectrogram(axes, power, loudest, signal.shape[-1] / sample_rate)
        axes.set_axis_off()
        yield figure


def frequency_heights() -> dict[str, float]:
    """Label of each frequency tick, such as ``1k``, -> its height in a spectrogram, 0 to 1."""
    span = math.log(_HIGHEST_HZ / _LOWEST_HZ)
    return {
        label: math.log(hertz / _LOWEST_HZ) / span for hertz, label in _FREQUENCY_TICKS_HZ.items()
    }


def _band_power(signal: _Signal, sample_rate: int, columns: int) -> NDArray[np.float64]:
    """Compute power in logarithmic frequency bands over time, summed over channels.

    Args:
        signal: Waveform, shape (C, T).
        sample_rate: Samples per second.
        columns: Maximum number of time steps; frames of a long signal do not overlap.

    Returns:
        Power, shape (bands, steps), lowest band first.
    """
    n_fft = 2 ** round(math.log2(0.09 * sample_rate))  # 93 ms at 44.1 kHz
    samples = signal.shape[-1]
    padded = np.pad(np.asarray(signal, dtype=np.float32), [(0, 0), (n_fft // 2, n_fft // 2)])
    # The centre of column k is at (k + 1/2) / columns of the signal's length.
    columns = max(1, min(columns, 8 * samples // n_fft))
    starts = ((np.arange(columns) + 0.5) * samples / columns).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[:, starts]
    spectrum = np.fft.rfft(windows * np.hanning(n_fft).astype(np.float32), axis=-1)
    power = (np.abs(spectrum) ** 2).sum(axis=0)
    bands: NDArray[np.float64] = _band_weights(n_fft, sample_rate) @ power.T
    return bands


def _band_weights(n_fft: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangular weights of FFT bins in logarithmic bands, shape (bands, bins).

    A triangle is as wide as its band, but at least two bins: low bands interpolate between bins,
    high bands average over many.
    """
    bins_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    centres_hz = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS)[:, None]
    half_widths_hz = np.maximum(
        centres_hz * math.log(_HIGHEST_HZ / _LOWEST_HZ) / _BANDS, sample_rate / n_fft
    )
    weights = np.maximum(0, 1 - np.abs(bins_hz - centres_hz) / half_widths_hz)
    # Bands above half the sample rate are empty.
    normalised: NDArray[np.float64] = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return normalised


def _draw_spectrogram(
    axes: Axes, power: NDArray[np.float64], loudest: float, seconds: float
) -> None:
    """Draw band power (bands, steps) in dB relative to `loudest`."""
    decibels = 10 * np.log10(np.maximum(power / loudest, 1e-12))
    _draw_image(axes, decibels, seconds, _LEVEL_COLOURS, (-_DYNAMIC_RANGE_DB, 0))


def _draw_image(
    axes: Axes,
    values: NDArray[np.float64],
    seconds: float,
    colours: Colormap,
    limits: tuple[float, float],
) -> None:
    """Draw values (bands, steps) over time and logarithmic frequency."""
    image = axes.imshow(values, colours, aspect="auto", origin="lower", extent=(0, seconds, 0, 1))
    image.set_clim(limits)
    ticks = frequency_heights()
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.tick_params(labelsize=9)


def _envelope(signal: _Signal, sample_rate: int) -> tuple[NDArray[np.float64], _Signal, _Signal]:
    """Starts in seconds, minima and maxima over channels of at most 600 sections of a signal."""
    starts = np.unique(np.linspace(0, signal.shape[-1], 600, endpoint=False).astype(int))
    lowest = np.minimum.reduceat(signal.min(axis=0), starts)
    highest = np.maximum.reduceat(signal.max(axis=0), starts)
    return starts / sample_rate, lowest, highest
