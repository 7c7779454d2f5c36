"""Benchmarks: ``python -m lightning_modules.tools.benchmark loader``.

``loader`` measures reading, ``step`` training steps, ``ranks`` the scaling of DDP, ``separation``
whole tracks, ``scorer`` BSS Eval, ``epoch`` its share of an epoch and ``transfer`` batches on the
device; ``gpu`` runs all that needs a GPU. Each sub-command is a module
with ``add_arguments``, ``check``, ``compare`` and ``table``; its docstring is the help text.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path

from datamodules import command_line

COMMANDS = {
    "loader": "datamodules.benchmark.loader",
    "step": "lightning_modules.benchmark.step",
    "ranks": "lightning_modules.benchmark.ranks",
    "separation": "lightning_modules.benchmark.separation",
    "scorer": "lightning_modules.benchmark.scorer",
    "epoch": "lightning_modules.benchmark.epoch",
    "transfer": "lightning_modules.benchmark.transfer",
    "gpu": "lightning_modules.benchmark.gpu",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    named = COMMANDS.keys() & set(given[:1])
    if named:
        command_line.announce("Loading the benchmark...")
    options = build_parser(named).parse_args(given)  # the others are not imported
    return command_line.run(lambda: _measure(options))


def build_parser(complete: Collection[str] = tuple(COMMANDS)) -> command_line.Parser:
    """Build the parser of the command line, with the options of these benchmarks."""
    parser = command_line.Parser("lightning_modules.tools.benchmark")
    commands = parser.add_subparsers(metavar="|".join(COMMANDS), required=True)
    for name, path in COMMANDS.items():
        if name not in complete:
            commands.add_parser(name, help="")
            continue
        module = import_module(path)
        command = commands.add_parser(name, help="", description=module.__doc__)
        module.add_arguments(command)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the results there"
        )
        command.set_defaults(module=module)
    return parser


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
