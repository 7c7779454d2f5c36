"""Weights of the package ``demucs``, or of torchaudio's Hybrid Demucs, as a checkpoint.

``python -m lightning_modules.tools.import_demucs demucs-e07c671f.th -o demucs.ckpt``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError, check_is_free

_SOURCES = ("drums", "bass", "other", "vocals")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint that the command line asks for.

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
        default=_SOURCES,
        help=f"their order in the file, if it does not tell; by default {' '.join(_SOURCES)}",
    )
    parser.add_argument(
        "--no-resample",
        action="store_true",
        help="a state dict of the first version, which works at the mixture's sample rate",
    )
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    check_is_free(options.output)
    if not options.weights.is_file():
        raise CheckpointError(f"{options.weights}: there is no such file; weights were expected")
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.interop.demucs import from_package

    resample = False if options.no_resample else None
    save_separator(from_package(options.weights, options.sources, resample), options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
