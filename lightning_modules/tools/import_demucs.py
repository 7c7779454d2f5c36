"""Convert weights of the package ``demucs``, or of torchaudio's Hybrid Demucs, to a checkpoint.

``python -m lightning_modules.tools.import_demucs demucs-e07c671f.th -o demucs.ckpt``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError, check_is_free


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.import_demucs")
    parser.add_argument("weights", type=Path, help="a file of the package, or a state dict")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the checkpoint to write")
    parser.add_argument(
        "--sources",
        nargs="+",
        help="order of the sources, if the file does not store it (default: drums bass other "
        "vocals, as in the package)",
    )
    parser.add_argument(
        "--no-resample",
        action="store_true",
        help="for a state dict of version 1, which does not resample inside the network",
    )
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    check_is_free(options.output)
    if not options.weights.is_file():
        raise CheckpointError(f"{options.weights}: there is no such file; expected weights")
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.interop.demucs import PACKAGE_SOURCES, from_package

    resample = False if options.no_resample else None
    separator = from_package(options.weights, options.sources or PACKAGE_SOURCES, resample)
    save_separator(separator, options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
