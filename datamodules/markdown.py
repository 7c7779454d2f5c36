"""Markdown tables with aligned columns, for the docs and for terminals."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Format a table.

    Args:
        lines: Cells of each row, the headings first.

    Returns:
        The table's lines of text.
    """
    widths = [max(1, *map(len, column)) for column in zip(*lines, strict=True)]
    rows = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return ["| " + " | ".join(map(str.ljust, row, widths)).rstrip() + " |" for row in rows]
