"""Weights of the package ``openunmix`` as a checkpoint.

``python -m lightning_modules.tools.import_open_unmix umxhq -o umxhq.ckpt``, where ``umxhq`` is
a folder of ``vocals-<hash>.pth``, ``drums-<hash>.pth`` and so on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError, check_is_free


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint that the command line asks for.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.import_open_unmix")
    parser.add_argument("folder", type=Path, help="folder of <source>.pth files")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the checkpoint to write")
    options = parser.parse_args(arguments)
    return command_line.run(lambda: convert(options.folder, options.output))


def convert(folder: Path, output: Path) -> int:
    """Write a checkpoint that ``load_separator``, ``test`` and the separate tool take.

    Args:
        folder: Holds a state dict a source; see ``open_unmix.from_package``.
        output: The checkpoint.

    Returns:
        Exit status: 0.

    Raises:
        FileExistsError: It is there already.
        DataError: It cannot be written there.
        CheckpointError: A state dict is missing or unusable.
    """
    check_is_free(output)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is no folder; one of <source>.pth files was expected")
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.interop.open_unmix import from_package

    save_separator(from_package(folder), output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
