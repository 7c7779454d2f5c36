"""Check a data set and plot the results: ``python -m lightning_modules.tools.doctor ROOT``.

Does what ``python -m datamodules.doctor`` does, and plots lengths, levels and findings. Exit
status: 0 for notes or nothing, 1 for warnings, 2 for errors, which would harm training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.doctor.__main__ import add_arguments, examine_and_print


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine a data set, print the report and plot it.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 or 2.
    """
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _examine(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.doctor", description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("doctor"),
        help="folder of the plots (default doctor)",
    )  # fmt: skip
    parser.add_argument("--format", choices=["png", "svg"], default="png", help="default png")
    return parser


def _examine(options: argparse.Namespace) -> int:
    if not options.fast:
        command_line.check_folder(options.output, "-o")
    report = examine_and_print(options)
    if any(track.files for track in report.tracks):
        from lightning_modules.plots import data_sets, style

        for name, draw in (
            ("overview", data_sets.overview_figure),
            ("levels", data_sets.levels_figure),
        ):
            path = options.output / f"{name}.{options.format}"
            style.save(draw(report), path)
            print(path)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
