"""The command line: ``python -m lightning_modules.cli fit --config unet.yaml``.

Finds the configs, puts ``configs/base.yaml`` in front and reports mistakes that can be
found without Lightning, which takes seconds to import; then calls
``training/lightning_cli.py``. Heavy imports are inside functions, because the scoring
processes import this file again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from datamodules import command_line
from lightning_modules.configuration.files import (
    CONFIGS,
    ConfigError,
    architectures,
    find_config,
    names_model,
    read_config,
    with_parents,
)
from lightning_modules.configuration.short_options import build_parser, check_options, expand
from lightning_modules.runtime import launch, memory, ranks, signals

SUBCOMMANDS = ("fit", "validate", "test", "predict")
_HELP = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 2 after an error that is explained on stderr, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not _HELP.isdisjoint(given):
        named = given[0] if given[0] in SUBCOMMANDS else f"{{{','.join(SUBCOMMANDS)}}}"
        build_parser(named).print_help()
        return 0
    signals.restore_handlers()
    memory.reuse_freed_memory()
    ranks.end_with_main_rank()
    if given[:1] == ["fit"]:
        # A signal during the imports stops the run after its first batch.
        signals.install_handlers(signals.TERMINATE, signals.TIME_LIMIT, signals.HANG_UP)
        signals.outlive_readers()
    status = 0
    try:
        prepared = prepare(given)
        launch.started_processes()
        from lightning_modules.configuration.paths import check_given_root  # not for --help

        check_given_root(prepared)
        if launch.is_first_process():
            command_line.announce("Loading the model...")
        from lightning_modules.training.lightning_cli import run

        run(prepared, given)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = 130
    except Exception as error:
        status = command_line.report(error)
    # Not after a stop, which raises: SLURM may repeat the signal while the process ends.
    signals.restore_handlers()
    return status


def prepare(arguments: Sequence[str]) -> list[str]:
    """Resolve configs and short options, and put the base config in front.

    Raises:
        ConfigError: The subcommand or an option is unknown, or a config is missing or malformed.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        found = f"unknown subcommand {arguments[0]!r}" if arguments else "no subcommand given"
        raise ConfigError(f"{found}: use one of {', '.join(SUBCOMMANDS)}")
    arguments = [arguments[0], *expand(arguments[1:])]
    check_options(arguments[1:])
    if arguments[1:] == ["--help-all"]:
        return [arguments[0], "--help"]
    prepared = [arguments[0], "--config", str(CONFIGS / "base.yaml")]
    configs: list[Path] = []
    has_model = any(
        argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments
    )
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            value = value if equals else next(rest, "")
            for path in with_parents([find_config(value)], has_model):
                has_model = has_model or names_model(read_config(path))
                configs.append(path)
                prepared += ["--config", str(path)]
            continue
        prepared.append(argument)
        if name.rstrip("+") == "--trainer.logger":
            if not equals:
                value = next(rest, "")
                prepared.append(value)
            if value.rpartition(".")[2] in ("CSVLogger", "TensorBoardLogger"):
                # A required argument; later replaced by the run's directory.
                prepared.append("--trainer.logger.save_dir=.")
    if not has_model:
        _raise_missing_model(arguments[0], configs)
    return prepared


def _raise_missing_model(subcommand: str, configs: list[Path]) -> NoReturn:
    if configs:
        name = configs[-1].name
        raise ConfigError(
            f"{name} names no model (model.class_path) and is not a variant of a known config; put "
            f"the config of its architecture before it: --config unet.yaml --config {name}"
        )
    raise ConfigError(
        f"no config given: add one, as in `{subcommand} --config unet.yaml`; there are: "
        f"{architectures()}"
    )


if __name__ == "__main__":
    sys.exit(main())
