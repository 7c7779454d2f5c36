"""Short options of ``fit``, ``validate``, ``test`` and ``predict``, and their help.

They are replaced by settings before jsonargparse sees them; nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules import command_line
from datamodules.errors import did_you_mean
from lightning_modules.configuration.files import SECTIONS, ConfigError, config_names


class Short(NamedTuple):
    """A short option: the setting that it stands for, and its help."""

    setting: str
    metavar: str
    summary: str


SHORT = {
    "--data": Short("data.init_args.root", "ROOT", "data set; default MUSDB_PATH, else the demo's"),
    "--sources": Short("data.init_args.sources", "A,B", "stems that the model separates"),
    "--out": Short("run_dir", "FOLDER", "directory of the run; default runs/NAME"),
    "--epochs": Short("trainer.max_epochs", "N", "length of the training"),
    "--batch-size": Short("data.init_args.batch_size", "N", "examples in a batch, of all devices"),
    "--lr": Short("model.init_args.optimizer.init_args.lr", "RATE", "learning rate"),
}
_EXPLAINED = {
    "--ckpt_path": ("FILE", "checkpoint to continue or to score; last and best are the run's"),
    "--seed_everything": ("N", "seed of weights and data (default 0)"),
}
# Further options that have no dot.
_OTHERS = ("-c", "-h", "--config", "--help", "--help-all", "--print_config", "--print_config=",
           "--verbose", "--return_predictions")  # fmt: skip


def build_parser(subcommand: str) -> command_line.Parser:
    """Build the parser of the most used options, for help and completion."""
    own = "lightning_modules.cli"
    parser = command_line.Parser(
        prog=f"{command_line.program(own)} {subcommand}",
        usage="%(prog)s --config NAME [options] [--SETTING=VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"configs: {', '.join(name for name in config_names() if '/' not in name)};\n"
        "each has smaller, larger or published variants, such as unet/small.\n\n"
        "Every setting that --print_config shows is an option, such as\n"
        "--trainer.precision=bf16-mixed. --help-all explains them, and --model.help=CLASS,\n"
        "--data.help=CLASS and --trainer.callbacks.help=CLASS those of a class.",
    )
    add = parser.add_argument
    add("-c", "--config", metavar="NAME", help="name in configs/ or a file; later ones override")
    for option, (setting, metavar, summary) in SHORT.items():
        add(option, metavar=metavar, help=f"{summary} (--{setting})")
    for option, (metavar, summary) in _EXPLAINED.items():
        add(option, metavar=metavar, help=summary)
    add("--print_config", action="store_true", help="print all settings, and do nothing else")
    add("--help-all", action="store_true", help="explain all settings")
    return parser


def expand(arguments: Sequence[str]) -> list[str]:
    """Replace short options by the settings that they stand for.

    The settings are last, so that no config overrides them.

    Args:
        arguments: Arguments after the subcommand.

    Raises:
        ConfigError: A value is missing, or the long option is given too.
    """
    rest: list[str] = []
    settings: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in SHORT:
            rest.append(word)
            continue
        if not equals:
            value = next(words, "--")
        if value.startswith("--"):
            raise ConfigError(f"{option}: expected {SHORT[option].metavar} after it")
        if option == "--data" and _names_class(value):
            rest.append(f"--data={value}")
        else:
            settings[option] = value
    for word in rest:
        name = _plain(word.partition("=")[0].rstrip("+"))
        for option in settings:
            if name == _plain(f"--{SHORT[option].setting}"):
                raise ConfigError(f"{option} and {word.partition('=')[0]} are the same: give one")
    return rest + [f"--{SHORT[o].setting}={_value(o, value)}" for o, value in settings.items()]


def _plain(option: str) -> str:
    """An option without ``init_args``, which jsonargparse lets users omit."""
    return option.replace(".init_args", "")


def _names_class(value: str) -> bool:
    """Whether the value of ``--data`` is a class and its settings rather than a data set."""
    is_class = re.fullmatch(r"([A-Za-z_]\w*\.)+[A-Z]\w*|\w+DataModule", value)
    return "class_path" in value or bool(is_class and not Path(value).exists())


def _value(option: str, value: str) -> str:
    if option == "--sources" and not value.startswith(("[", "{")):
        return f"[{value}]"
    return value


def check_options(arguments: Sequence[str]) -> None:
    """Raise a ``ConfigError`` for options that do not exist, as far as that is known here.

    Args:
        arguments: Arguments after the subcommand, with short options replaced.
    """
    if arguments and not arguments[0].startswith("-"):
        given = arguments[0]
        name = given.removesuffix(".yaml")
        meant = f"; did you mean --config {given}?" if name in config_names() else ""
        raise ConfigError(f"unexpected argument {given!r}{meant}")
    known = [*SHORT, *_EXPLAINED, *_OTHERS, *(f"--{section}" for section in SECTIONS)]
    for word in arguments:
        option = word.partition("=")[0].rstrip("+")
        if option.startswith("--") and option.partition(".")[0] not in known:
            meant = did_you_mean(option.partition(".")[0], known)
            raise ConfigError(f"unrecognized option {word}{meant}")
