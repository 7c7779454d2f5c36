"""Grouping of stems into sources."""

from __future__ import annotations

from typing import Any

import pytest

from datamodules.errors import DataError
from datamodules.tracks.sources import grouping


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["guitar"], "guitar.*vocals, drums, bass, other"),
        ({"a": ["vocals", "vocals"]}, "each stem once"),
        ({"a": []}, "'a'"),
        ([], "sources is empty"),
    ],
)
def test_invalid_sources_are_refused(sources: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        grouping(sources)
