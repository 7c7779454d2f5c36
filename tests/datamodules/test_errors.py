"""Words for messages."""

from __future__ import annotations

import pytest

from datamodules.errors import did_you_mean


@pytest.mark.parametrize(
    ("found", "known", "most", "words"),
    [
        ("unett", ["unet", "demucs"], 1, "; did you mean unet?"),
        ("HT Demucs", ["htdemucs", "unet"], 1, "; did you mean htdemucs?"),
        ("--batch_size", ["--batch-size", "--lr"], 1, "; did you mean --batch-size?"),
        ("umx", ["umxl", "umxhq", "unet"], 2, "; did you mean umxl or umxhq?"),
        ("x", ["unet"], 1, ""),
        (3, [], 1, ""),
    ],
)
def test_the_known_names_that_are_most_like_another(
    found: object, known: list[str], most: int, words: str
) -> None:
    assert did_you_mean(found, known, most) == words
