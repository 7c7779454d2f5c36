"""Shared colours, sizes and saving of plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from datamodules.files.writing import replacing

# Okabe and Ito's palette for all kinds of colour vision, without yellow, which is too light here.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

MIXTURE_COLOUR = "0.84"
MODEL_COLOUR = "#2f5f9f"
BASELINE_COLOUR = "0.55"

# Grey for missing values.
HEAT_COLOURS = matplotlib.colormaps["cividis"].with_extremes(bad="0.87")

# White for no difference; safe for all kinds of colour vision.
DIFFERENCE_COLOURS = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.87")

DPI = 100  # a figure 12 inches wide is 1200 pixels wide


def new_figure(title: str, height: float, width: float = 12.0) -> Figure:
    """Create an empty figure with constrained layout; sizes are in hundreds of pixels."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=13)
    return figure


def frame(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """Draw grid lines behind the data and hide the upper and right border."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour of ``COLOURS`` for each name."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def paler(colour: str) -> tuple[float, float, float]:
    """A light shade of a colour, RGB from 0 to 1."""
    red, green, blue = to_rgb(colour)
    return (0.45 * red + 0.55, 0.45 * green + 0.55, 0.45 * blue + 0.55)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically.

    Args:
        figure: The figure.
        path: The file, ``.png`` or ``.svg``. Its folder is created; an existing file is replaced.

    Raises:
        DataError: It cannot be written; the message has the reason and the free space.
    """
    path = Path(path)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix[1:], dpi=DPI)
