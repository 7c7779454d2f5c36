"""Write a separator for other programs.

``python -m lightning_modules.tools.export best.ckpt -o vocals.onnx --format onnx``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.description import check_is_there

# By format; a folder has none.
SUFFIXES = {"safetensors": "", "torch_export": ".pt2", "onnx": ".onnx"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the checkpoint that the command line names.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.export")
    add = parser.add_argument
    add("checkpoint", type=Path, help="a checkpoint of `fit`, or an exported folder")
    add("-o", "--output", required=True, type=Path,
        help="the folder of safetensors, or the file: .pt2 or .onnx, with a .json beside it",
    )  # fmt: skip
    add("--format", choices=list(SUFFIXES), default="safetensors", help="default safetensors")
    add("--seconds", type=float, metavar="S",
        help="length of the input, where a format fixes it; by default a chunk of the model's",
    )  # fmt: skip
    add("--force", action="store_true", help="overwrite what is there")
    options = parser.parse_args(arguments)
    try:
        _check(options)
        export(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before torch is imported."""
    check_is_there(options.checkpoint)
    output, suffix = options.output, SUFFIXES[options.format]
    if suffix and output.suffix != suffix:
        raise ValueError(f"{output}: give -o a name that ends in {suffix}, as {options.format} has")
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise ValueError(f"--seconds is {options.seconds}: give a length above 0")
    for path in [output, output.with_suffix(".json")] if suffix else [output]:
        if path.exists() and not options.force:
            raise FileExistsError(f"{path} is there already; give another name, or --force")


def export(options: argparse.Namespace) -> None:
    """Write a separator, compare what was written, and only then put it into its place.

    Args:
        options: The command line.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ExportError: The separator cannot be exported to the format.
    """
    from lightning_modules.checkpoint import load_separator
    from lightning_modules.exporting import EXPORTS, TOLERANCE, write_facts

    model = load_separator(options.checkpoint)
    output, is_file = options.output, bool(SUFFIXES[options.format])
    seconds = model.segment_seconds if options.seconds is None else options.seconds
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        made = Path(folder, output.name)
        exported = EXPORTS[options.format](model, made, seconds)
        if is_file:
            write_facts(model, exported, made.with_suffix(".json"))
            made, place = made.parent, output.parent
        else:
            place = output
            place.mkdir(exist_ok=True)
        for path in made.iterdir():
            path.replace(place / path.name)
    axes = ", ".join(map(str, exported.axes))
    print(
        f"{output}: the {exported.part}, input ({axes}); read again it differs by "
        f"{exported.difference:.1e} of the largest output at most ({TOLERANCE:.0e} passes)"
    )


if __name__ == "__main__":
    sys.exit(main())
