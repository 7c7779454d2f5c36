"""Tables of benchmarks: Markdown, with columns that are aligned for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.audio import DataError

_BEGIN, _END = "<!-- table: made by {} -->", "<!-- end -->"


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Write a table.

    Args:
        lines: Its cells, the headings first; as many in each line.

    Returns:
        The table's lines of text.
    """
    widths = [max(1, *map(len, column)) for column in zip(*lines, strict=True)]
    rows = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return ["| " + " | ".join(map(str.ljust, row, widths)).rstrip() + " |" for row in rows]


def with_table(page: Path, maker: str, lines: Sequence[str]) -> str:
    """Put a table into its place on a page.

    Args:
        page: The file, which has a mark before the table and one behind it.
        maker: The module that the first mark names.
        lines: The table.

    Returns:
        The page's text with the table between the marks.

    Raises:
        DataError: The file, or a mark in it, is missing.
    """
    if not page.is_file():
        raise DataError(f"{page}: there is no such page; give --docs a folder that has it")
    mark = _BEGIN.format(maker)
    before, begin, rest = page.read_text().partition(mark)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise DataError(f"{page} has no lines {mark} and {_END}: put them back")
    return "\n".join([before + begin, *lines, end + after])
