"""Kill runs at random moments and check that they resume exactly.

Tiny trainings on a data set of noise are started by ``python -m lightning_modules.cli fit``, killed
or stopped by a signal several times, at moments and with settings drawn at random, and resumed with
``--ckpt_path auto``. The end of each is compared with that of the same training without signals:
checkpoints (weights, averages, optimiser, schedulers), scores, and the loss and examples of every
batch must be equal to the bit. Exit status 1 if one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError

NAME = "lightning_modules.tools.endurance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run trials for some minutes.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 if a run did not resume exactly, 2 for a mistake explained on stderr.
    """
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _endure(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(NAME, description=__doc__)
    add, number = parser.add_argument, command_line.count()
    add(
        "--minutes", type=float, default=3.0, help="time to start runs and to kill them (default 3)"
    )
    add(
        "--seed",
        type=command_line.count(0),
        default=0,
        help="of the first run; each next has 1 more",
    )
    add(
        "--runs", type=number, help="largest number of runs (default: as many as there is time for)"
    )
    add(
        "--jobs",
        type=number,
        default=1,
        help="runs at the same time, a core or two each (default 1)",
    )
    add("-o", "--output", type=Path, default=Path("endurance"), help="folder for failed runs")
    return parser


def _endure(options: argparse.Namespace) -> int:
    if not 0 < options.minutes < float("inf"):
        raise DataError(f"--minutes is {options.minutes:g}: give a number above 0")
    if not Path("/proc/self/environ").exists():
        raise DataError("there is no /proc/self/environ: this test of killed processes needs Linux")
    command_line.check_folder(options.output, "-o")
    # Imported after the checks, because torch takes seconds.
    from lightning_modules.endurance.report import report
    from lightning_modules.endurance.trials import Trials

    seeds = (
        range(options.seed, options.seed + options.runs) if options.runs else count(options.seed)
    )
    trials = []
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        runs = Trials(Path(folder), options.output)
        try:
            for trial in runs.run_all(iter(seeds), options.jobs, options.minutes):
                trials.append(trial)
        finally:  # also after Ctrl-C
            print(report(trials, options.output, command_line.program(NAME)))
    return int(any(trial.fault for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
