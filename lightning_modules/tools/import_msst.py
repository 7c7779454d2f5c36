"""Convert a model of Music-Source-Separation-Training (MSST) to a folder or a checkpoint.

``python -m lightning_modules.tools.import_msst config.yaml model.ckpt -o vocals``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _convert(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.import_msst")
    add = parser.add_argument
    add("config", type=Path, help="the YAML config of the training")
    add("weights", type=Path, help="the weights (.ckpt, .chpt, .th, .pt)")
    output = "a folder, with a fit.yaml for fine-tuning; or a checkpoint if its name ends in .ckpt"
    add("-o", "--output", required=True, type=Path, help=output)
    zero = "set the lowest frequency bin of estimates to zero (default: as the config says, else "
    zero += (
        "yes for RoFormers, as MSST does since September 2025; other programs and older versions "
    )
    zero += "do not)"
    boolean = argparse.BooleanOptionalAction
    add("--zero-dc", action=boolean, default=None, help=zero)
    standardise = (
        "SCNet: give the network spectra with zero mean and unit deviation, as the code of "
    )
    standardise += "its authors does since September 2024 (default: as the config says, else no)"
    add("--standardise-input", action=boolean, default=None, help=standardise)
    return parser


def _convert(options: argparse.Namespace) -> int:
    command_line.check_free(options.output)
    command_line.check_file(options.output, "-o")
    for path in (options.config, options.weights):
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file; expected a config and weights")
    command_line.announce("Loading the model...")
    from lightning_modules.checkpoints.files import save_separator
    from lightning_modules.checkpoints.hub_folder import write_folder
    from lightning_modules.interop import msst

    given = {"zero_dc": options.zero_dc, "standardise_input": options.standardise_input}
    changes = {name: value for name, value in given.items() if value is not None}
    model, notes = msst.load(options.config, options.weights, **changes)
    if options.output.suffix == ".ckpt":
        save_separator(model, options.output)
    else:
        write_folder(model, options.output)
        (options.output / "fit.yaml").write_text(msst.fit_config(model))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    settings = model.separation_settings
    print(
        f"{options.output}: {type(model).__name__} of {', '.join(model.sources)}, "
        f"{model.sample_rate} Hz; separates chunks of {model.segment_seconds:.2f} s with an "
        f"overlap of {settings.overlap:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
