"""The table of docs/export.md: ``python docs/make/export_table.py unet demucs``.

Models of the configs named, as small as their classes' ``tiny`` makes them, are exported to all
formats. What came of it is kept in ``docs/export.json``, so that configs can be done one by one,
and the table is written anew between its two marks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.markdown import markdown, read_rows, with_table, write_rows
from lightning_modules.configuration.files import CONFIGS, chain
from lightning_modules.tools.export import SUFFIXES, check_packages

DOCS = CONFIGS.parent / "docs"
_MAKER = "docs/make/export_table.py"
_SECONDS = 0.4


def main(arguments: Sequence[str] | None = None) -> int:
    """Export models of the configs that the command line names, and write the table.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake.
    """
    parser = argparse.ArgumentParser(
        prog="python docs/make/export_table.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="*", help="configs; none writes the table alone")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of page and findings")
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _fill(options))


def _fill(options: argparse.Namespace) -> int:
    findings, page = options.docs / "export.json", options.docs / "export.md"
    with_table(page, _MAKER, [])  # a page without marks is told before the minutes
    for each in SUFFIXES:
        check_packages(each)
    for name in options.configs:
        chain(name)
    rows = read_rows(findings)
    for name in options.configs:
        rows[name] = attempts(name)
        write_rows(findings, rows)
        print(name, *_cells(name, rows[name])[2:], sep="; ", flush=True)
    page.write_text(with_table(page, _MAKER, table(rows)))
    return 0


def attempts(name: str) -> dict[str, Any]:
    """Export a config's model, as small as it gets, to all formats.

    Args:
        name: The config.

    Returns:
        ``class``, and by format what was exported, or why it was not; in JSON's types.
    """
    from lightning_modules.configuration.build import build_model
    from lightning_modules.interop.export import EXPORTS, ExportError

    kind = type(build_model(name).model)
    tiny = [f"--model.init_args.{key}={json.dumps(value)}" for key, value in kind.tiny.items()]
    model = build_model(name, tiny).model.eval()
    row: dict[str, Any] = {"class": kind.__name__}
    for each, export in EXPORTS.items():
        with tempfile.TemporaryDirectory(prefix="stemlab-export-") as folder:
            try:
                exported = export(model, Path(folder, "model" + SUFFIXES[each]), _SECONDS)
                row[each] = exported._asdict()
            except ExportError as error:
                row[each] = {"reason": str(error)}
    return row


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write the table.

    Args:
        rows: Config -> what ``attempts`` found.

    Returns:
        Its lines of Markdown.
    """
    return markdown(
        [["config", "class", *SUFFIXES], *(_cells(*row) for row in sorted(rows.items()))]
    )


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    # As it stands, a bar would end the cell, and a bracket begin a tag.
    found = [_cell(row[each]).replace("|", "\\|").replace("<", "&lt;") for each in SUFFIXES]
    return [f"`{name}`", f"`{row['class']}`", *found]


def _cell(found: Mapping[str, Any]) -> str:
    if "reason" in found:
        return f"no: {found['reason']}"
    batch = "any batch" if found["axes"][0] == "batch" else "one example"
    time, shortest = found["axes"][-1], found["shortest"]
    some = "fixed length" if shortest is None else f"from {shortest} {time} on"
    length = "any length" if shortest == 1 else some
    difference = f"{found['difference']:.0e}" if found["difference"] else "exact"
    why = f": {found['obstacle']}" if found["obstacle"] else ""
    return f"{found['part']}, {batch}, {length} ({difference}){why}"


if __name__ == "__main__":
    sys.exit(main())
