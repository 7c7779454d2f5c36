"""Convert weights of the package ``demucs``, or of torchaudio's Hybrid Demucs, to a checkpoint.

``python -m lightning_modules.tools.import_demucs 955717e8-8726e21a.th -o htdemucs.ckpt``

A bag of models (``htdemucs_ft.yaml``) becomes a folder with their checkpoints and ensemble.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _convert(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.import_demucs")
    add = parser.add_argument
    given = "a file of the package (.th, .safetensors), a state dict, or the YAML file of a bag"
    add("weights", type=Path, help=given)
    add("-o", "--output", required=True, type=Path, help="the checkpoint, or for a bag the folder")
    sources = "names in order, if the file does not store them (default: drums bass other vocals)"
    add("--sources", nargs="+", help=sources)
    version = "for a state dict of version 1, which does not resample inside the network"
    add("--no-resample", action="store_true", help=version)
    return parser


def _convert(options: argparse.Namespace) -> int:
    command_line.check_free(options.output)
    is_bag = options.weights.suffix in (".yaml", ".yml")
    (command_line.check_folder if is_bag else command_line.check_file)(options.output, "-o")
    if not options.weights.is_file():
        raise CheckpointError(f"{options.weights}: there is no such file; expected weights")
    command_line.announce("Loading the model...")
    if is_bag:
        return _convert_bag(options)
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.interop.demucs import PACKAGE_SOURCES, from_package

    resample = False if options.no_resample else None
    separator = from_package(options.weights, options.sources or PACKAGE_SOURCES, resample)
    save_separator(separator, options.output)
    print(options.output)
    return 0


def _convert_bag(options: argparse.Namespace) -> int:
    if options.sources or options.no_resample:
        raise ValueError("--sources and --no-resample are for single files, not for a bag")
    from lightning_modules.interop.demucs import write_ensemble

    print(write_ensemble(options.weights, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
