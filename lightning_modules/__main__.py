"""The command ``stemlab``, also ``python -m lightning_modules``: one subcommand for each tool.

Subcommands call the ``main`` of the module that ``python -m`` starts, which is imported only then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from datamodules import command_line
from datamodules.errors import did_you_mean
from lightning_modules.commands import CLI, COMMANDS

# Names in other programs.
_SYNONYMS = {"train": "fit", "evaluate": "test", "serve": "web", "split": "separate"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: that of the subcommand, or 2 for an unknown one.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command_line.start_as_stemlab()
    _prefer_own_modules()
    for length in (1, 2):
        if (name := " ".join(given[:length])) in COMMANDS:
            return _start(name, given[length:])
    return command_line.run(lambda: _answer(given))


def _start(name: str, arguments: list[str]) -> int:
    if COMMANDS[name].module == CLI:
        arguments = [name, *arguments]
    status: int = import_module(COMMANDS[name].module).main(arguments)
    return status


def _prefer_own_modules() -> None:
    """Let no module of the current folder replace one of ours; keep its other modules importable.

    Also in processes that this one starts. Classes of the user, as in
    ``--model.class_path=mine.MyModel``, are found in the current folder, which is last.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    for folder in (Path(__file__).parents[1], Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _answer(given: list[str]) -> int:
    """Answer a command line without a known subcommand."""
    first = given[0] if given else "--help"
    known = dict.fromkeys(name.split()[0] for name in COMMANDS)
    if first == "--version":
        from lightning_modules.version import version

        print(f"stemlab {version()}")
    elif first in ("-h", "--help", "help"):
        print(_help(""))
    elif first in known:  # the first of two words
        if not {"-h", "--help"}.isdisjoint(given):
            print(_help(f"{first} "))
            return 0
        kinds = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ")]
        found = f"unknown kind {given[1]!r}" if len(given) > 1 else "no kind given"
        meant = did_you_mean(given[1], kinds) if len(given) > 1 else ""
        raise CommandError(f"stemlab {first}: {found}: use one of {', '.join(kinds)}{meant}")
    else:
        meant = _SYNONYMS.get(first, first)
        raise CommandError(
            f"unknown command {first!r}: stemlab --help lists all{did_you_mean(meant, known)}"
        )
    return 0


class CommandError(ValueError):
    """A subcommand is unknown or missing; the message names those that exist."""


def _help(prefix: str) -> str:
    """Help of ``stemlab``, or of the commands with a common first word."""
    lines = [f"  {name:18} {one.summary}" for name, one in COMMANDS.items()
             if name.startswith(prefix)]  # fmt: skip
    return "\n".join(
        [
            f"usage: stemlab {prefix}COMMAND ...",
            "",
            "Train, score and use models that separate music into stems.",
            "",
            *lines,
            "",
            "stemlab COMMAND --help shows the options of a command, stemlab --version the version",
            "and commit.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
