"""A table of a comparison, as plain text, Markdown and LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from datamodules.markdown import markdown
from datamodules.tables import format_table
from lightning_modules.comparison.settings import ABSENT

_MAX_CELL = 32
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "≥": r"$\geq$", "<": "$<$", ">": "$>$", "…": r"\dots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Its title.
        header: Names of the columns.
        rows: Cells.
        notes: Lines below it.
        labels: Number of columns that name a row.
        best: Row and column of each cell that is set in bold.
        bounds: Number of last rows that are set apart, because they are no systems.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    labels: int = 1
    best: frozenset[tuple[int, int]] = frozenset()
    bounds: int = 0

    def text(self, bold: bool = False) -> str:
        """Format the table for a terminal; ``bold`` allows its codes for bold text."""
        header, *rows = (
            [*row[: self.labels], *map(_shorten, row[self.labels :])]
            for row in [self.header, *self.rows]
        )
        body: list[list[str] | None] = [*rows]
        if self._is_divided:
            body.insert(len(rows) - self.bounds, None)
        table = format_table(header, body, self.labels, self.best if bold else ())
        return "\n".join([self.title, table, *self.notes])

    def markdown(self) -> str:
        """Format the table as Markdown."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in [self.header, *self.rows]]
        for row, column in self.best:
            cells[row + 1][column] = f"**{cells[row + 1][column]}**"
        notes = [f"{note}  " for note in self.notes]
        return "\n".join([f"## {self.title}", "", *markdown(cells), "", *notes]).rstrip() + "\n"

    def latex(self) -> str:
        """Format the table for LaTeX with the package booktabs; the notes are in its caption."""
        header, *rows = ([_latex(cell) for cell in row] for row in [self.header, *self.rows])
        for row, column in self.best:
            rows[row][column] = rf"\textbf{{{rows[row][column]}}}"
        lines = [" & ".join(row) + r" \\" for row in rows]
        if self._is_divided:
            lines.insert(len(lines) - self.bounds, r"\midrule")
        lines = [r"\toprule", " & ".join(header) + r" \\", r"\midrule", *lines, r"\bottomrule"]
        columns = "l" * self.labels + "r" * (len(header) - self.labels)
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_latex('. '.join([self.title, *self.notes]))}.}}",
                rf"  \begin{{tabular}}{{{columns}}}",
                *(f"    {line}" for line in lines),
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    @property
    def _is_divided(self) -> bool:
        return 0 < self.bounds < len(self.rows)


def _shorten(cell: str) -> str:
    """Cut the middle out of a long cell: class paths differ at their ends."""
    half = _MAX_CELL // 2
    return cell if len(cell) <= _MAX_CELL else f"{cell[: half - 1]}…{cell[-half:]}"


def _latex(text: str) -> str:
    """Escape a cell; a hyphen before a digit is a minus, and one alone is a dash."""
    if text == ABSENT:
        return "--"
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
