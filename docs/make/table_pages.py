"""Tables of README and docs, filled config by config: rows in JSON, Markdown between markers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from lightning_modules.configuration.files import CONFIGS, chain

Rows = Mapping[str, Mapping[str, Any]]
"""Config -> JSON values."""
DOCS = CONFIGS.parent / "docs"
_BEGIN, _END = "<!-- table: made by {} -->", "<!-- end -->"


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """Command line of a script: configs and ``--docs``."""
    arguments = argparse.ArgumentParser(
        prog=f"python {script}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("configs", nargs="*", help="configs; without one, only format the table")
    arguments.add_argument("--docs", type=Path, default=DOCS, help="folder of pages and JSON file")
    return arguments


def update(
    script: str,
    configs: Sequence[str],
    file: Path,
    pages: Mapping[Path, Callable[[Rows], list[str]]],
    measure: Callable[[str, dict[str, Any]], dict[str, Any]],
    others: Collection[str] = (),
) -> None:
    """Measure configs, save their rows after each, and rewrite the tables of pages.

    Args:
        script: Path of the script that the pages' markers name.
        configs: Configs to measure; the rows of others are kept.
        file: JSON file of the rows.
        pages: Page -> function that formats rows as lines of Markdown.
        measure: Makes a config's row from its name and its former row.
        others: Names of rows that are no configs.

    Raises:
        DataError: A page has no markers, or the file is not JSON.
        ConfigError: A config does not exist.
    """
    for name in configs:
        if name not in others:
            chain(name)
    for page in pages:
        with_table(page, script, [])  # checks the markers before minutes of measuring
    rows = read_rows(file)
    for name in configs:
        print(f"--- {name}", flush=True)
        rows[name] = measure(name, rows.get(name, {}))
        text = json.dumps(dict(sorted(rows.items())), indent=2, ensure_ascii=False)
        file.write_text(text + "\n")
    for page, lines_of in pages.items():
        page.write_text(with_table(page, script, lines_of(rows)))


def with_table(page: Path, script: str, lines: Sequence[str]) -> str:
    """Text of a page with another table between its markers.

    Args:
        page: The Markdown file.
        script: Path of the script that the first marker names.
        lines: The table.

    Raises:
        DataError: The file or a marker is missing.
    """
    if not page.is_file():
        raise DataError(f"{page}: there is no such page; give --docs a folder that has it")
    marker = _BEGIN.format(script)
    before, begin, rest = page.read_text().partition(marker)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise DataError(f"{page}: has no lines {marker} and {_END}; restore them")
    return "\n".join([before + begin, *lines, end + after])


def read_rows(file: Path) -> dict[str, dict[str, Any]]:
    """Read a JSON file of rows; there are none if it does not exist."""
    if not file.is_file():
        return {}
    try:
        rows: dict[str, dict[str, Any]] = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error}); fix or delete it") from error
    return rows
