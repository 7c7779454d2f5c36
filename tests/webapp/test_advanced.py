"""Settings of separation that users of the page choose."""

from __future__ import annotations

from typing import Any

import pytest

from datamodules.errors import DataError

pytestmark = pytest.mark.slow  # Gradio takes seconds to import


def values(**given: Any) -> list[Any]:
    from lightning_modules.webapp.advanced import _FIELDS

    assert given.keys() <= {option.name for option in _FIELDS}
    return [given.get(option.name) for option in _FIELDS]


def test_only_given_settings_are_returned() -> None:
    from lightning_modules.webapp.advanced import read_fields

    assert read_fields(values()) == {}
    assert read_fields(values(overlap_window="", test_time_augmentation="")) == {}
    given = {"overlap": "0", "overlap_window": "hann", "shifts": "3", "normalise_mixture": "no"}
    expected = {"overlap": 0.0, "overlap_window": "hann", "shifts": 3, "normalise_mixture": False}
    assert read_fields(values(**given)) == expected
    assert read_fields(values(test_time_augmentation="yes")) == {"test_time_augmentation": True}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"overlap": 1}, "overlap is 1"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"overlap": "much"}, "overlap is 'much': give another number"),
        ({"shifts": -1}, "shifts is -1"),
        ({"shifts": float("inf")}, "shifts is inf"),
        ({"overlap": [0.5]}, r"overlap is \[0.5\]: give another number"),
        ({"shifts": True}, "shifts is True: give another number"),
        ({"overlap_window": ["hann"]}, r"overlap_window is \['hann'\]: give crossfade or hann"),
        ({"normalise_mixture": True}, "normalise_mixture is True: give yes or no"),
        ({"overlap": 0.99}, "separate the song 100 times; .* at most 40 times"),
        ({"overlap": 0, "shifts": 7, "circular_shifts": 6}, "separate the song 42 times"),
    ],
)
def test_mistakes_and_excess_are_refused(given: dict[str, Any], words: str) -> None:
    from lightning_modules.webapp.advanced import read_fields

    with pytest.raises(DataError, match=words):
        read_fields(values(**given))
