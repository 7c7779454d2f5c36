"""What ``datamodules.doctor.report`` finds in a data set, as a table and as pictures.

``python -m lightning_modules.tools.doctor ROOT`` reads every file to its end. Exit status: 0
nothing but notes, 1 warnings, 2 errors, which would spoil training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.doctor.report import Report, add_arguments, examine_as_told


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine and draw as the command line says.

    Args:
        arguments: Command line; by default the process's own.

    Returns:
        Exit status: 0, 1 or 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.tools.doctor", description=__doc__
    )
    add_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("doctor"),
        help="folder of the pictures (default doctor)",
    )  # fmt: skip
    parser.add_argument("--format", choices=["png", "svg"], default="png", help="default png")
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _examine(options))


def _examine(options: argparse.Namespace) -> int:
    if not options.fast:
        command_line.check_folder(options.output, "-o")
    report = examine_as_told(options)
    if any(track.files for track in report.tracks):
        _draw(report, options.output, options.format)
    return report.exit_code


def _draw(report: Report, folder: Path, suffix: str) -> None:
    from lightning_modules.plots import data_sets, style

    for name, figure in (
        ("overview", data_sets.overview_figure(report)),
        ("levels", data_sets.levels_figure(report)),
    ):
        path = folder / f"{name}.{suffix}"
        style.save(figure, path)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
