"""Export a separator for use by other programs.

``python -m lightning_modules.tools.export best.ckpt -o vocals.onnx --format onnx``
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules import command_line
from datamodules.errors import counted
from datamodules.unfinished import unfinished_folder
from lightning_modules.base.description import CARD
from lightning_modules.interop.published import check_model

if TYPE_CHECKING:
    from lightning_modules.base.separator import SourceSeparator

# Suffix of the file of each format; none for a folder.
SUFFIXES = {"safetensors": "", "torch_export": ".pt2", "onnx": ".onnx", "msst": "", "demucs": ".th"}
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
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
    add_card_options(parser)
    return parser


def add_card_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model card, which ``push`` has too."""
    card = parser.add_argument_group("model card", "README.md of the format safetensors")
    add = card.add_argument
    add("--license", "--licence", default="unknown", metavar="ID", help="licence of the weights, "
        "as the Hugging Face Hub calls it, such as mit or cc-by-4.0 (default unknown)")  # fmt: skip
    add("--dataset", metavar="NAME", help="data set of the training and of the scores, such as "
        "MUSDB18-HQ (default: the name of its folder)")  # fmt: skip
    add("--scores", type=Path, metavar="FOLDER", help="score files of the test tracks (default: "
        "those that `test` wrote for best.ckpt of a run)")  # fmt: skip


def _check(options: argparse.Namespace) -> None:
    """Check options before torch is imported."""
    check_model(options.checkpoint)
    output, suffix = options.output, SUFFIXES[options.format]
    if suffix and output.suffix != suffix:
        raise ValueError(f"{output}: give -o a name that ends in {suffix}, for {options.format}")
    check_card_options(options)
    if options.seconds is not None and not 0 < options.seconds < float("inf"):
        raise ValueError(f"--seconds is {options.seconds}: give a length above 0")
    for path in [output, _facts_of(output)] if suffix else [output]:
        command_line.check_free(path, options.force)
    (command_line.check_file if suffix else command_line.check_folder)(output, "-o")
    check_packages(options.format)


def check_card_options(options: argparse.Namespace) -> None:
    """Raise if an option of the card cannot be used."""
    if not _LICENCE.fullmatch(options.license):
        raise ValueError(
            f"--license is {options.license!r}: give an identifier of the Hub, such as mit or "
            "cc-by-nc-4.0; https://huggingface.co/docs/hub/repositories-licenses lists them"
        )
    if options.scores is not None and not any(options.scores.glob("*.json")):
        raise ValueError(f"--scores {options.scores}: a folder with score files was expected")


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
    from lightning_modules.interop.model_card import find_training, write_card

    has_card = options.format == "safetensors"
    training = find_training(options.checkpoint, options.scores) if has_card else None
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
        if training is not None:
            write_card(model, made, training, options.license, options.dataset)
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
    if training is not None:
        scored = f"scores of {counted(len(training.scores), 'test track')}"
        scores = scored if training.scores else f"no scores: {training.no_scores}"
        print(f"{options.output / CARD}: license {options.license}; {scores}")
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
