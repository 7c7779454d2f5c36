"""The table of docs/export.md: ``python docs/make/export_table.py unet demucs``.

Exports models of the configs, made small by their classes' ``tiny``, to all formats. Results are
kept in ``docs/export.json``, so configs can be tried one at a time; the table of
``docs/export.md`` follows.
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
from datamodules.markdown import markdown
from lightning_modules.tools.export import SUFFIXES, check_packages
from table_pages import Rows, parser, update

SCRIPT = "docs/make/export_table.py"
# Other projects have some of the architectures only: see docs/interop.md.
_FORMATS = [name for name in SUFFIXES if name not in ("msst", "demucs")]
_SECONDS = 0.4


def main(arguments: Sequence[str] | None = None) -> int:
    """Export models of configs and write the table.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake.
    """
    options = parser(SCRIPT, __doc__).parse_args(arguments)
    return command_line.run(lambda: _update(options))


def _update(options: argparse.Namespace) -> int:
    for each in _FORMATS if options.configs else ():
        check_packages(each)
    update(
        SCRIPT,
        options.configs,
        options.docs / "export.json",
        {options.docs / "export.md": table},
        lambda name, _: export_all(name),
    )
    return 0


def export_all(name: str) -> dict[str, Any]:
    """Export a config's model, as small as possible, to all formats.

    Args:
        name: The config.

    Returns:
        ``class``, and per format the export's result or the reason why there is none.
    """
    from lightning_modules.configuration.build import build_model
    from lightning_modules.interop.export import EXPORTS, ExportError

    kind = type(build_model(name).model)
    tiny = [f"--model.init_args.{key}={json.dumps(value)}" for key, value in kind.tiny.items()]
    model = build_model(name, tiny).model.eval()
    row: dict[str, Any] = {"class": kind.__name__}
    for each, export in ((name, EXPORTS[name]) for name in _FORMATS):
        with tempfile.TemporaryDirectory(prefix="stemlab-export-") as folder:
            try:
                exported = export(model, Path(folder, "model" + SUFFIXES[each]), _SECONDS)
                row[each] = exported._asdict()
            except ExportError as error:
                row[each] = {"reason": str(error)}
    return row


def table(rows: Rows) -> list[str]:
    """Format all results, one row per config, as lines of Markdown."""
    return markdown(
        [["config", "class", *_FORMATS], *(_cells(*row) for row in sorted(rows.items()))]
    )


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    # Unescaped, a bar would end the cell and a bracket start a tag.
    found = [_cell(row[each]).replace("|", "\\|").replace("<", "&lt;") for each in _FORMATS]
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
