"""Print a script with which a shell completes commands and options: ``stemlab completion bash``.

The script is static: no Python starts when TAB is pressed. To make it takes seconds, because the
settings of ``fit`` are read from the classes that have them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from datamodules import command_line
from lightning_modules import cli
from lightning_modules.commands import CLI, COMMANDS
from lightning_modules.configuration.files import config_names
from lightning_modules.configuration.short_options import build_parser as fit_parser

SHELLS = ("bash", "zsh")
_CONFIG = {
    "bash": '_stemlab_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_stemlab_configs() {{ compadd -- {names}; _files; }}",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _print(options.shell))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.completion", description=__doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def _print(shell: str) -> int:
    import shtab

    parser = argparse.ArgumentParser("stemlab")
    parser.add_argument("--version", action="store_true", help="print version and commit")
    groups = {"": parser.add_subparsers()}
    settings = list(_settings())
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in groups:
            of_group = groups[""].add_parser(group, help="convert models of other programs")
            groups[group] = of_group.add_subparsers()
        if command.module == CLI:
            own: argparse.ArgumentParser = fit_parser(name)
            for setting in settings:
                own.add_argument(setting)
        else:
            own = import_module(command.module).build_parser()
        _complete_files(own)
        groups[group].add_parser(last, parents=[own], add_help=False, help=command.summary)
    preamble = _CONFIG[shell].format(names=" ".join(config_names()))
    print(shtab.complete(parser, shell, preamble=preamble))
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the arguments that are paths complete files, and ``--config`` also names."""
    import shtab

    for action in parser._actions:
        if "--config" in action.option_strings:
            action.complete = dict.fromkeys(SHELLS, "_stemlab_configs")  # type: ignore[attr-defined]
        elif action.type is Path or action.metavar in ("ROOT", "FILE", "FOLDER", "OUT"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.choices, Mapping):
            for nested in action.choices.values():
                _complete_files(nested)


def _settings() -> Iterator[str]:
    """Options of ``fit`` for the settings of a run of the U-Net."""
    command_line.announce("Reading the settings of fit...")
    import torch  # noqa: F401  no model is announced

    with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        cli.main(["fit", "--config", "unet", "--print_config"])
    yield from _flat(yaml.safe_load(printed.getvalue()), "--")


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif prefix != "--":
            yield f"{prefix}{name}"


if __name__ == "__main__":
    sys.exit(main())
