"""Export a separator for use by other programs.

``python -m lightning_modules.tools.export best.ckpt -o vocals.onnx --format onnx``
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules import command_line
from datamodules.unfinished import unfinished_folder
from lightning_modules.interop.published import check_model

if TYPE_CHECKING:
    from lightning_modules.base.separator import SourceSeparator

# Suffix of the file of each format; none for a folder.
SUFFIXES = {"safetensors": "", "torch_export": ".pt2", "onnx": ".onnx", "msst": "", "demucs": ".th"}
# Packages of the optional dependencies that a format needs.
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a checkpoint; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: export(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.export")
    add = parser.add_argument
    model = "a checkpoint of `fit`, an exported folder, or the name of a published model"
    add("checkpoint", type=Path, help=model)
    output = "folder (safetensors, msst), or file (.pt2, .onnx, .th) with NAME.json beside it"
    add("-o", "--output", required=True, type=Path, help=output)
    add("--format", choices=list(SUFFIXES), default="safetensors", help="default safetensors")
    seconds = "length of the input if the format fixes it (default: the model's chunk length)"
    add("--seconds", type=float, metavar="S", help=seconds)
    add("--force", action="store_true", help="overwrite existing files")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Check options before torch is imported."""
    check_model(options.checkpoint)
    output, suffix = options.output, SUFFIXES[options.format]
    if suffix and output.suffix != suffix:
        raise ValueError(f"{output}: give -o a name that ends in {suffix}, for {options.format}")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise ValueError(f"--seconds is {options.seconds}: give a length above 0")
    for path in [output, _facts_of(output)] if suffix else [output]:
        command_line.check_free(path, options.force)
    (command_line.check_file if suffix else command_line.check_folder)(output, "-o")
    check_packages(options.format)


def _facts_of(program: Path) -> Path:
    return program.with_name(f"{program.name}.json")


def check_packages(name: str) -> None:
    """Raise ValueError if packages of a format are not installed."""
    missing = [package for package in _PACKAGES.get(name, ()) if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"{name} needs {', '.join(missing)}, which is not installed: pip install -e '.[export]'"
        )


def export(options: argparse.Namespace) -> int:
    """Write a separator to a temporary folder, verify it, then move it to the output.

    Returns:
        Exit status, 0.

    Raises:
        OSError: The output exists and ``--force`` is not given.
        ValueError: An option or the checkpoint cannot be used, or the separator cannot be
            exported to the format; the message names the formats that work.
    """
    _check(options)
    command_line.announce("Loading the model...")
    from lightning_modules.checkpoints.loading import load_separator
    from lightning_modules.interop.export import EXPORTS, TOLERANCE, ExportError, write_facts

    model = load_separator(options.checkpoint)
    if model.loads_weights:
        raise ExportError(
            f"{options.checkpoint}: {type(model).__name__} consists of several models; export "
            "these one by one"
        )
    # Absolute, because a name such as ".." cannot be created in the temporary folder.
    output, is_file = Path(os.path.abspath(options.output)), bool(SUFFIXES[options.format])
    seconds = model.segment_seconds if options.seconds is None else options.seconds
    output.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(output.parent) as folder:
        made = folder / output.name
        try:
            exported = EXPORTS[options.format](model, made, seconds)
        except ExportError as error:
            raise ExportError(
                f"{options.checkpoint}: {type(model).__name__} cannot be exported as "
                f"{options.format}: {error}{_alternatives(model, seconds, options)}"
            ) from error
        if is_file:
            write_facts(model, exported, _facts_of(made))
            made, target = made.parent, output.parent
        else:
            target = output
            target.mkdir(exist_ok=True)
        # Not only the graph and its facts: ONNX writes large weights to a separate file.
        files = list(made.iterdir())
        for path in files:
            command_line.check_free(target / path.name, options.force)
        for path in files:
            path.replace(target / path.name)
    axes = ", ".join(map(str, exported.axes))
    print(
        f"{options.output}: the {exported.part}, input ({axes}); largest difference from the model "
        f"{exported.difference:.1e} of the largest output (tolerance {TOLERANCE:.0e})"
    )
    return 0


def _alternatives(model: SourceSeparator, seconds: float, options: argparse.Namespace) -> str:
    """Name the formats that the separator can be exported to, by trying the others."""
    from lightning_modules.interop.export import EXPORTS

    possible = []
    for name in [name for name in SUFFIXES if name != options.format]:
        with suppress(ValueError), tempfile.TemporaryDirectory(prefix="stemlab-export-") as folder:
            check_packages(name)
            EXPORTS[name](model, Path(folder, f"model{SUFFIXES[name]}"), seconds)
            possible.append(name)
    return f"; give --format {' or '.join(possible)}" if possible else ""


if __name__ == "__main__":
    sys.exit(main())
