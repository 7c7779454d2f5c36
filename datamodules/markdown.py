"""Tables of benchmarks: Markdown, with columns that are aligned for a terminal, and their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

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


def read_rows(file: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of a table that grows config by config.

    Args:
        file: The JSON file, which need not be there yet.

    Returns:
        Config -> its figures.

    Raises:
        DataError: It is not JSON.
    """
    if not file.is_file():
        return {}
    try:
        rows: dict[str, dict[str, Any]] = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error}); mend it, or take it away") from error
    return rows


def write_rows(file: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the rows of a table, sorted by config.

    Args:
        file: The JSON file.
        rows: Config -> its figures.
    """
    text = json.dumps(dict(sorted(rows.items())), indent=2, ensure_ascii=False)
    file.write_text(text + "\n")
