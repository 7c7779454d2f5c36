"""Plots of sound show the signals at the right place and level."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from lightning_modules.plots import sound, style

RATE = 22050
SOURCES = ("vocals", "drums", "bass", "other")
FIGURES = (
    sound.spectrogram_figure,
    sound.difference_figure,
    sound.mask_figure,
    sound.waveform_figure,
)


def tone_and_click(seconds: float = 2.0) -> NDArray[np.float32]:
    """A tone of 1 kHz and a click at 0.5 s, shape (2, 2, T)."""
    time = np.arange(int(seconds * RATE)) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    click = np.zeros_like(time)
    click[RATE // 2] = 1
    return np.repeat(np.stack([tone, click])[:, None], 2, axis=1).astype(np.float32)


def image(axes: Axes) -> NDArray[np.float64]:
    """Drawn decibels of a spectrogram or values of a mask, shape (bands, steps)."""
    values = axes.images[0].get_array()
    assert values is not None
    return values


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.images}


@pytest.mark.slow
def test_spectrogram_shows_frequency_time_and_level() -> None:
    references = tone_and_click()
    estimates = references * np.array([0.1, 0.0], dtype=np.float32)[:, None, None]
    figure = sound.spectrogram_figure(
        references.sum(0), references, estimates, SOURCES[:2], RATE, "title"
    )
    drawn = panels(figure)
    assert list(drawn) == [
        "mixture",
        "vocals: reference",
        "vocals: estimate",
        "drums: reference",
        "drums: estimate",
    ]

    tone = image(drawn["vocals: reference"])
    axes = drawn["vocals: reference"]
    height = (tone[:, tone.shape[1] // 2].argmax() + 0.5) / tone.shape[0]
    ticks = dict(
        zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks(), strict=True)
    )
    assert height == pytest.approx(ticks["1k"], abs=0.01)
    octave = (ticks["200"] - ticks["50"]) / 2
    assert ticks["1k"] - ticks["200"] == pytest.approx(octave * math.log2(5))

    click = image(drawn["drums: reference"])
    left, right, _, _ = drawn["drums: reference"].images[0].get_extent()
    assert (left, right) == (0, 2)
    loud = np.flatnonzero(click[100] > click[100].max() - 1)
    assert (loud.mean() + 0.5) / click.shape[1] * right == pytest.approx(0.5, abs=0.01)

    # One scale for all panels: 0 dB is the mixture's maximum, a tenth of it is -20 dB.
    assert image(drawn["mixture"]).max() == pytest.approx(0, abs=0.01)
    middle = slice(100, 200)
    difference = tone[:, middle].max() - image(drawn["vocals: estimate"])[:, middle].max()
    assert difference == pytest.approx(20, abs=0.01)
    assert image(drawn["drums: estimate"]).max() <= -80
    assert {axes.images[0].get_clim() for axes in drawn.values()} == {(-80, 0)}


def test_opposite_channels_do_not_cancel() -> None:
    references = tone_and_click()
    opposite = references * np.array([1, -1], dtype=np.float32)[:, None]
    figures = [
        sound.spectrogram_figure(x.sum(0), x, x, SOURCES[:2], RATE, "")
        for x in (references, opposite)
    ]
    same, other = (image(panels(figure)["vocals: reference"]) for figure in figures)
    np.testing.assert_allclose(same, other, atol=1e-3)


def test_differences_are_white_at_zero() -> None:
    references = tone_and_click()
    quieter = references * np.array([0.1, 1.0], dtype=np.float32)[:, None, None]
    leaking = quieter + np.stack([np.zeros_like(references[0]), 0.1 * references[0]])
    figure = sound.difference_figure(
        references.sum(0), references, leaking, SOURCES[:2], RATE, "title"
    )
    vocals, drums = (image(axes) for axes in panels(figure).values())
    middle = slice(100, 130)
    tone = round(math.log(1000 / 30) / math.log(16000 / 30) * len(vocals))
    assert np.allclose(vocals[tone, middle], -20, atol=0.1), "a tenth of the amplitude"
    assert drums[tone, middle].min() > 30, "leakage, limited only by the colours"
    assert np.abs(vocals[-10:]).max() < 0.1, "equal, and below the floor"
    axes = panels(figure)["drums"]
    assert axes.images[0].get_clim() == (-30, 30)
    centre = axes.images[0].get_cmap()(0.5)
    assert min(centre[:3]) > 0.95


def test_masks_show_shares_of_the_mixture() -> None:
    time = np.arange(2 * RATE) / RATE
    low, high = (0.1 * np.sin(2 * np.pi * hertz * time) for hertz in (250, 4000))
    low[RATE:] = 0
    references = np.repeat(np.stack([low, high])[:, None], 2, axis=1).astype(np.float32)
    # One tone has a quarter of its amplitude; the other is three times too loud and leaks.
    estimates = np.stack([0.25 * references[0], 0.5 * references[0] + 3 * references[1]])
    figure = sound.mask_figure(references.sum(0), references, estimates, SOURCES[:2], RATE, "title")
    drawn = panels(figure)
    assert list(drawn) == [
        f"{source}: {kind}" for source in SOURCES[:2] for kind in ("reference", "estimate")
    ]
    assert {axes.images[0].get_clim() for axes in drawn.values()} == {(0, 1)}
    height, width = image(drawn["vocals: reference"]).shape
    octaves = math.log2(16000 / 30)
    heights = {hertz: round(math.log2(hertz / 30) / octaves * height) for hertz in (250, 4000)}

    def at(panel: str, hertz: int, second: float) -> object:
        return image(drawn[panel])[heights[hertz], round(second / 2 * width)]

    assert at("vocals: reference", 250, 0.5) == pytest.approx(1, abs=1e-3)
    assert at("vocals: reference", 4000, 0.5) == pytest.approx(0, abs=1e-3)
    assert at("vocals: estimate", 250, 0.5) == pytest.approx(0.25, abs=1e-3)
    assert at("drums: estimate", 250, 0.5) == pytest.approx(0.5, abs=1e-3)
    assert at("drums: estimate", 4000, 1.5) == 1, "a mask is at most 1"
    assert at("vocals: reference", 250, 1.5) is np.ma.masked, "the mixture is silent"
    assert sound.frequency_heights()["200"] < heights[250] / height


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 500])
def test_silence_of_any_length(tmp_path: Path, channels: int, samples: int) -> None:
    silence = np.zeros((4, channels, samples), dtype=np.float32)
    for draw in FIGURES:
        figure = draw(silence.sum(0), silence, silence, SOURCES, RATE, "silence")
        style.save(figure, tmp_path / "deep" / "silence.png")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["silence.png"]


@pytest.mark.slow
def test_figures_are_1200_pixels_wide_and_thread_safe(tmp_path: Path) -> None:
    references = tone_and_click(1.0)

    def draw(index: int) -> tuple[int, ...]:
        path = tmp_path / f"{index}.png"
        function = FIGURES[index % 4]
        figure = function(references.sum(0), references, references, SOURCES[:2], RATE, "title")
        style.save(figure, path)
        return imread(path).shape

    with ThreadPoolExecutor(2) as pool:
        shapes = list(pool.map(draw, range(8)))
    assert [shape[1] for shape in shapes] == [1200] * 8
    assert shapes[:4] == shapes[4:]


@pytest.mark.slow
def test_denoising_figure_shows_spectrograms_and_levels(tmp_path: Path) -> None:
    time = np.arange(2 * RATE) / RATE
    low, high = (0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (250, 8000))
    clean = np.stack([low + high] * 2).astype(np.float32)
    dull = np.stack([low + 0.1 * high] * 2).astype(np.float32)
    figure = sound.denoising_figure(clean, clean, dull, RATE, "title")
    drawn = panels(figure)
    assert list(drawn) == ["clean", "noisy", "denoised"]
    assert image(drawn["clean"]).max() == pytest.approx(0, abs=0.01)
    assert {axes.images[0].get_clim() for axes in drawn.values()} == {(-80, 0)}

    (levels,) = [axes for axes in figure.axes if axes.get_xscale() == "log"]
    lines = {str(line.get_label()): line for line in levels.lines}
    centres = np.asarray(lines["clean"].get_xdata())
    heights = {name: np.asarray(line.get_ydata()) for name, line in lines.items()}
    assert list(heights) == ["clean", "noisy", "denoised"]
    for hertz, lower in ((250, 0), (8000, 20)):
        band = int(np.argmin(np.abs(centres - hertz)))
        assert heights["clean"][band] == pytest.approx(0, abs=0.1)
        assert heights["denoised"][band] == pytest.approx(-lower, abs=0.1)
    style.save(figure, tmp_path / "denoising.png")
    assert imread(tmp_path / "denoising.png").shape[1] == 1200
    silence = np.zeros((1, 100), np.float32)
    style.save(sound.denoising_figure(silence, silence, silence, RATE, ""), tmp_path / "none.png")


def test_waveforms_show_single_peaks() -> None:
    references = tone_and_click()
    figure = sound.waveform_figure(
        references.sum(0), references, 0.25 * references, SOURCES[:2], RATE, "title"
    )
    upper = figure.axes[1].lines[1]  # of the click's estimate: one sample among thousands
    heights = np.asarray(upper.get_ydata())
    assert heights.max() == 0.25
    assert np.asarray(upper.get_xdata())[heights.argmax()] == pytest.approx(0.5, abs=2 / 600)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_strips_extend_to_the_edges_and_share_a_scale() -> None:
    tone, click = tone_and_click()
    strips = list(sound.track_strips(iter([tone, 0.5 * tone, click]), RATE))
    for figure in strips:
        (axes,) = figure.axes
        assert axes.get_position().bounds == (0, 0, 1, 1)
        assert axes.get_xlim() == (0, 2)
    whole, half, clicked = (image(figure.axes[0]) for figure in strips)
    assert whole.max() == pytest.approx(0)
    assert half.max() == pytest.approx(-6.02, abs=0.01)
    row = int(sound.frequency_heights()["1k"] * len(whole))
    assert abs(int(whole[:, 50].argmax()) - row) <= 2
    assert clicked.max(axis=0).argmax() == pytest.approx(clicked.shape[1] / 4, abs=3)
    silent = np.zeros((2, RATE), np.float32)
    assert len(list(sound.track_strips([silent, silent], RATE))) == 2
