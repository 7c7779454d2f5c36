"""Benchmarks: ``python -m lightning_modules.tools.benchmark loader``.

``loader`` measures reading, ``step`` training steps, ``ranks`` the scaling of DDP, ``separation``
whole tracks, ``scorer`` BSS Eval and ``epoch`` its share of an epoch. Each sub-command is a module
with ``add_arguments``, ``check``, ``compare`` and ``table``; its docstring is the help text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.benchmark import loader
from lightning_modules.benchmark import epoch, ranks, scorer, separation, step

COMMANDS = {
    "loader": loader,
    "step": step,
    "ranks": ranks,
    "separation": separation,
    "scorer": scorer,
    "epoch": epoch,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.benchmark")
    commands = parser.add_subparsers(metavar="|".join(COMMANDS), required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, description=module.__doc__)
        module.add_arguments(command)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the results there"
        )
        command.set_defaults(module=module)
    options = parser.parse_args(arguments)
    return command_line.run(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    if options.json:
        command_line.check_file(options.json, "--json")
    options.module.check(options)
    report = options.module.compare(options)
    print(options.module.table(report))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
