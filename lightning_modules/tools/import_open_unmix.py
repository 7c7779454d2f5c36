"""Convert weights of the package ``openunmix`` to a checkpoint.

``python -m lightning_modules.tools.import_open_unmix umxhq -o umxhq.ckpt``; the folder ``umxhq``
contains ``vocals-<hash>.pth``, ``drums-<hash>.pth`` and so on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _convert(options.folder, options.output))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.import_open_unmix")
    parser.add_argument("folder", type=Path, help="folder of <source>.pth files")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the checkpoint to write")
    return parser


def _convert(folder: Path, output: Path) -> int:
    command_line.check_free(output)
    command_line.check_file(output, "-o")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is not a folder; expected a folder of <source>.pth files")
    command_line.announce("Loading the model...")
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.interop.open_unmix import from_package

    save_separator(from_package(folder), output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
