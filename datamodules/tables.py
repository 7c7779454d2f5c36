"""Plain-text tables for terminals and log files; ``markdown.py`` has those of the docs."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence


def format_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    labels: int = 1,
    bold: Collection[tuple[int, int]] = (),
) -> str:
    """Format a table at its natural width: cells are neither wrapped nor cut.

    Args:
        header: Column headings, which may have several lines.
        rows: Cells of each row; None draws a rule.
        labels: Number of leading columns that are aligned left; the others are aligned right.
        bold: Row, counted without rules, and column of cells that a terminal shows in bold.

    Returns:
        The table between rules, without trailing spaces, and without codes unless cells are bold.
    """
    # Imported here, because most commands print no table.
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    for number, heading in enumerate(header):
        table.add_column(heading, justify="left" if number < labels else "right", no_wrap=True)
    number = 0
    for row in rows:
        if row is None:
            table.add_section()
            continue
        styles = ["bold" if (number, column) in bold else "" for column in range(len(row))]
        table.add_row(*map(Text, row, styles))
        number += 1
    # Wider than any table, whatever the terminal; brackets and colons in cells are plain text.
    console = Console(
        file=io.StringIO(),
        width=100_000,
        color_system="standard" if bold else None,
        force_terminal=bool(bold),
        markup=False,
        emoji=False,
        force_jupyter=False,  # in a notebook it would display HTML
    )
    with console.capture() as capture:
        console.print(table, highlight=False)
    # The box starts each line with a space.
    return "\n".join(line[1:].rstrip() for line in capture.get().splitlines())
