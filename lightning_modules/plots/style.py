"""Colours, sizes and saving that all pictures share."""

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all kinds of colour vision; without yellow, too faint here.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

MIXTURE_COLOUR = "0.84"

MODEL_COLOUR = "#2f5f9f"

BASELINE_COLOUR = "0.55"

# Grey where there is no figure.
HEAT_COLOURS = matplotlib.colormaps["cividis"].with_extremes(bad="0.87")

DPI = 100  # a figure 12 inches wide is 1200 pixels wide


def new_figure(title: str, height: float, width: float = 12.0) -> Figure:
    """Begin a figure.

    Args:
        title: Its title.
        height: Its height, hundreds of pixels.
        width: Its width, hundreds of pixels.

    Returns:
        A figure without panels, whose panels make room for each other's labels.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=13)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in one stroke.

    Args:
        figure: The figure.
        path: The file, ``.png`` or ``.svg``; its folder is made, an older file is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(unfinished, format=path.suffix[1:], dpi=DPI)
    unfinished.replace(path)
