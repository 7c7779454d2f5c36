"""Settings of separation that users can replace, for command lines and the web app.

This file does not import torch, so that ``--help`` and mistakes do not wait for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

Window = Literal["crossfade", "hann", "triangle", "ramps", "mean"]
Edges = Literal["zeros", "reflect", "context"]
Combination = Literal[
    "mean", "median", "min", "max", "median_spectrum", "min_spectrum", "max_spectrum"
]


class Option(NamedTuple):
    """A setting of separation.

    Attributes:
        name: Name in ``SeparationSettings``.
        kind: Type of its values.
        help: What it does.
        choices: The possible values, of a string.
        short: Another name on the command line.
    """

    name: str
    kind: type
    help: str
    choices: tuple[str, ...] = ()
    short: str = ""

    @property
    def metavar(self) -> str:
        """Placeholder of its values, of a number."""
        if self.kind is int:
            return "N"
        return "SECONDS" if self.name.endswith("_seconds") else "SHARE"


OPTIONS = (
    Option("overlap", float, "share of a chunk that overlaps the next, from 0 to below 1"),
    Option("overlap_window", str, "weights of overlapping chunks", get_args(Window)),
    Option("edges", str, "what completes chunks at the ends of a song", get_args(Edges)),
    Option("chunk_seconds", float, "length of the chunks of a song; shorter ones need less memory"),
    Option("batch_size", int, "chunks per forward pass"),
    Option("shifts", int, "number of random delays to average over"),
    Option("circular_shifts", int, "number of circular shifts to average over (MSST's bigshifts)"),
    Option("test_time_augmentation", bool, "average with swapped channels and inverted polarity: "
           "three times the time", short="tta"),
    Option("normalise_mixture", bool, "separate the song with zero mean and unit deviation"),
)  # fmt: skip
"""All settings that users can replace; where one is not given, that of the model counts."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add the options to a command line, without defaults."""
    for option in OPTIONS:
        names = [f"--{name.replace('_', '-')}" for name in (option.name, option.short) if name]
        keywords: dict[str, Any] = {"help": option.help}
        if option.kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif option.choices:
            keywords["choices"] = option.choices
        else:
            keywords |= {"type": option.kind, "metavar": option.metavar}
        parser.add_argument(*names, **keywords)


def given_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are given, by name."""
    found = {option.name: values.get(option.name) for option in OPTIONS}
    return {name: value for name, value in found.items() if value is not None}
