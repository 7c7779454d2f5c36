"""Check a data set before training: ``python -m datamodules.doctor ROOT``.

Reads every file completely and compares the audio of all tracks. ``--fast`` makes only the checks
that `fit` makes at its start: headers, and float files for NaN. Exit status: 0 for notes or
nothing, 1 for warnings, 2 for errors, which would harm training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.doctor.report import Report, examine
from datamodules.doctor.text import format_report
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine a data set and print the report.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 or 2.
    """
    parser = command_line.Parser("datamodules.doctor", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return command_line.run(lambda: examine_and_print(options).exit_code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``examine_and_print``."""
    parser.add_argument("root", metavar="ROOT", help="data set, in any supported layout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    parser.add_argument("--fast", action="store_true", help="only the checks of fit at its start")
    parser.add_argument("--stems", nargs="+", default=list(STEMS), metavar="STEM")
    parser.add_argument("--missing_as_silence", action="store_true")
    parser.add_argument(
        "--others", nargs="+", default=[], metavar="ROOT",
        help="data sets mixed with this one in training: find songs that are in both",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=command_line.count(), help="threads; by default one per core"
    )


def examine_and_print(options: argparse.Namespace) -> Report:
    """Examine a data set, print the report and write it to ``--json``."""
    if options.json:
        command_line.check_file(options.json, "--json")
    if options.others and options.fast:
        raise DataError(
            "--others compares the audio, which --fast does not read; leave one of them out"
        )
    report = examine(
        options.root,
        others=options.others,
        stems=options.stems,
        missing_as_silence=options.missing_as_silence,
        fast=options.fast,
        workers=options.workers,
        progress=True,
    )
    if options.json:
        content = json.dumps(report.json(), indent=2, ensure_ascii=False)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(content + "\n")
    print(format_report(report))
    return report


if __name__ == "__main__":
    sys.exit(main())
