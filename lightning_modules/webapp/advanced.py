"""Fields of the page for settings of separation; empty ones leave the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gradio

from datamodules.errors import DataError
from lightning_modules.inference.options import OPTIONS, Option
from lightning_modules.inference.separation import SeparationSettings

# The server's owner decides on its memory.
_FIELDS = [option for option in OPTIONS if option.name not in ("batch_size", "chunk_seconds")]
_OWN = "the model's"
_ANSWERS = {"yes": True, "no": False}
# Passes over a song, of all shifts and overlaps together: everybody else waits for them.
_MOST_PASSES = 40
_LARGE = 1e6


def build_fields() -> list[Any]:
    """Add one field for each setting to the page; return them."""
    return [_field(option) for option in _FIELDS]


def _choices(option: Option) -> tuple[str, ...]:
    return tuple(_ANSWERS) if option.kind is bool else option.choices


def _field(option: Option) -> Any:
    label = option.name.replace("_", " ").capitalize()
    text = option.help[0].upper() + option.help[1:]
    if choices := _choices(option):
        return gradio.Dropdown([(_OWN, ""), *choices], value="", label=label, info=text)
    # Gradio's field for numbers sends 0 if it is empty.
    return gradio.Textbox("", label=label, info=text, placeholder=_OWN)


def read_fields(values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings that a user gave, by name.

    Args:
        values: Values of the fields, as browsers send them: anything.

    Raises:
        DataError: A value is invalid, or separation would take too long.
    """
    given: dict[str, Any] = {}
    for option, value in zip(_FIELDS, values, strict=False):
        if value is None or value == "":
            continue
        given[option.name] = _read(option, value)
    try:
        settings = SeparationSettings(**given)
    except ValueError as error:
        raise DataError(str(error)) from error
    passes = max(1, settings.shifts) * max(1, settings.circular_shifts)
    passes *= 3 if settings.test_time_augmentation else 1
    if passes > _MOST_PASSES * (1 - settings.overlap):
        raise DataError(
            f"These settings separate the song {passes / (1 - settings.overlap):.0f} times; choose "
            f"fewer shifts or less overlap, for at most {_MOST_PASSES} times"
        )
    return given


def _read(option: Option, value: Any) -> Any:
    """Return the value of a field."""
    choices = _choices(option)
    if choices and value in choices:
        return _ANSWERS[value] if option.kind is bool else value
    with suppress(ValueError, TypeError, OverflowError):
        number = option.kind(float(value))
        if not (choices or isinstance(value, bool)) and abs(number) < _LARGE:
            return number
    expected = " or ".join(choices) or "another number"
    raise DataError(f"{option.name} is {value!r:.80}: give {expected}")
