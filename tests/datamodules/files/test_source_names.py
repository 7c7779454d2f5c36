"""Names of sources that cannot be those of files are refused."""

from __future__ import annotations

from typing import Any

import pytest

from datamodules.errors import DataError
from datamodules.files.source_names import check_file_names, check_source_names

PATHS = [
    "/../evil", "../evil", "..", ".", "/etc/cron.d/evil", "a/b", "a\\b", "..\\evil", "C:\\evil",
    ".hidden", "",
]  # fmt: skip
INVISIBLE = ["a\0b", "a\nb", "\x1b[2Jvocals", "a\u202eb", "vo\u200bcals", "a\u2028b", "\ud800"]


@pytest.mark.parametrize(
    "name",
    [
        *PATHS,
        *INVISIBLE,
        " vocals",
        "vocals ",
        " ",
        "x" * 201,
        "声" * 70,
        3,
        None,
        b"vocals",
        ["a"],
    ],
)
def test_names_that_are_no_plain_file_names_are_refused(name: Any) -> None:
    with pytest.raises(DataError, match="expected a plain file name") as error:
        check_source_names(["drums", name])
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "names",
    [("vocals", "vocals"), ("vocals", "Vocals"), ("é", "e\u0301"), ("É", "e\u0301"), ("ß", "SS")],
)
def test_names_that_a_file_system_may_not_tell_apart_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="names that differ"):
        check_source_names([*names])


@pytest.mark.parametrize("sources", [[], (), None, "vocals", b"ab", 3, {"vocals": 1}, {"vocals"}])
def test_only_lists_of_names_are_sources(sources: Any) -> None:
    with pytest.raises(DataError, match=r"sources is .* expected a list of names"):
        check_source_names(sources)


@pytest.mark.parametrize("name", ["mixture", "Mixture"])
def test_the_song_itself_is_no_source(name: str) -> None:
    with pytest.raises(DataError, match="is the song itself"):
        check_source_names(["vocals", name])
    check_file_names(["vocals", name], "stems")


def test_usual_names_are_accepted() -> None:
    names = [
        "vocals",
        "lead vocals",
        "Gitarre (links)",
        "声",
        "guitar.left",
        "no_vocals",
        "x" * 200,
    ]
    assert check_source_names(tuple(names)) == names
