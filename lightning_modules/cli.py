"""The command line: ``python -m lightning_modules.cli fit --config unet.yaml``.

This file finds the configs, puts ``configs/base.yaml`` in front and reports what
can be seen to be wrong without Lightning, whose import takes seconds; then
``run.py`` takes over. Nothing heavy is imported at the top: the processes that
score tracks import this file again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from datamodules import command_line
from datamodules.errors import DataError
from lightning_modules.configuration.files import (
    CONFIGS,
    ConfigError,
    architectures,
    find_config,
    names_model,
    part,
    read_config,
    with_parents,
)
from lightning_modules.runtime import launch, signals

SUBCOMMANDS = ("fit", "validate", "test", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    signals.restore_handlers()
    if given[:1] == ["fit"]:
        # One that comes during the seconds of the imports is heeded after the first batch.
        signals.install_handlers(signals.TERMINATE, signals.TIME_LIMIT)
    status = _main(given)
    # Not after a stop: SLURM may say it again while the process ends.
    signals.restore_handlers()
    return status


def _main(given: list[str]) -> int:
    try:
        prepared = prepare(given)
        launch.started_processes()
        from lightning_modules.training.lightning_cli import run

        run(prepared, given)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (ConfigError, DataError, launch.LaunchError) as error:
        return _report(error)
    except ValueError as error:
        if not _is_for_the_user(error):
            raise
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _is_for_the_user(error: ValueError) -> bool:
    """Whether the message was written for the person at the keyboard."""
    from lightning_modules.base.description import CheckpointError
    from lightning_modules.callbacks.background_scoring import MonitorError
    from lightning_modules.callbacks.non_finite import LossError
    from lightning_modules.training.lightning_cli import SettingError

    return isinstance(error, (CheckpointError, LossError, MonitorError, SettingError))


def prepare(arguments: Sequence[str]) -> list[str]:
    """Resolve configs to files, put the base config in front, and check both.

    Args:
        arguments: Command line after the program's name.

    Returns:
        The command line for LightningCLI.

    Raises:
        ConfigError: A config is missing or malformed, or a path does not exist.
        DataError: The run's directory cannot be written to.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        if {"-h", "--help"} & set(arguments):
            return list(arguments)
        found = f"unknown subcommand {arguments[0]!r}" if arguments else "no subcommand given"
        raise ConfigError(f"{found}: use one of {', '.join(SUBCOMMANDS)}")
    prepared = [arguments[0], "--config", str(CONFIGS / "base.yaml")]
    configs: list[tuple[Path, dict[str, Any]]] = []
    has_model = any(
        argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments
    )
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            value = value if equals else next(rest, "")
            for path in with_parents([find_config(value)], has_model):
                settings = read_config(path)
                has_model = has_model or names_model(settings)
                configs.append((path, settings))
                prepared += ["--config", str(path)]
        else:
            prepared.append(argument)
            if name == "--trainer.logger":
                value = value if equals else next(rest, "")
                if not equals:
                    prepared.append(value)
                if value.rpartition(".")[2] in ("CSVLogger", "TensorBoardLogger"):
                    # They insist on a directory; the run's own takes its place.
                    prepared.append("--trainer.logger.save_dir=.")
    is_help = not {"-h", "--help"}.isdisjoint(arguments)
    if not is_help and not has_model:
        _refuse_missing_model(arguments[0], [path for path, _ in configs])
    _check_paths(arguments, [settings for _, settings in configs])
    return prepared


def _refuse_missing_model(subcommand: str, configs: list[Path]) -> NoReturn:
    """Raise because neither a config nor an argument names the architecture."""
    if configs:
        name = configs[-1].name
        raise ConfigError(
            f"{name} names no model (model.class_path) and is not a variant of a known config; put "
            f"its architecture in front: --config unet.yaml --config {name}"
        )
    raise ConfigError(
        f"no config given: add one, as in `{subcommand} --config unet.yaml`; there are: "
        f"{architectures()}"
    )


def _check_paths(arguments: Sequence[str], configs: list[dict[str, Any]]) -> None:
    """Check the data's roots, the checkpoint's path and the run's directory, wherever given."""
    root: Any = os.environ.get("MUSDB_PATH")
    checkpoint: Any = None
    download: Any = False
    run_dir: Any = None
    for settings in configs:
        data = part(part(settings, "data"), "init_args")
        root, download = data.get("root") or root, data.get("download", download)
        checkpoint = settings.get("ckpt_path") or checkpoint
        run_dir = settings.get("run_dir") or run_dir
    words = list(arguments)
    for number, argument in enumerate(words):
        name, equals, value = argument.partition("=")
        value = value if equals else "".join(words[number + 1 : number + 2])
        if name in ("--data.init_args.root", "--data.root"):
            # Several roots with weights come as a mapping.
            root = yaml.safe_load(value) if value.startswith("{") else value
        elif name in ("--data.init_args.download", "--data.download"):
            download = value.lower() == "true"
        elif name == "--ckpt_path":
            checkpoint = value
        elif name == "--run_dir":
            run_dir = value
    for folder in map(str, root if isinstance(root, dict) else [root] if root else []):
        if folder != "null" and not download and not Path(folder).expanduser().is_dir():
            raise ConfigError(
                f"data root {folder!r} is no folder{launch.here()}; set MUSDB_PATH or "
                "--data.init_args.root to the folder that holds train and test"
            )
    if (
        checkpoint
        and checkpoint not in ("last", "best", "auto", "null")
        and not Path(str(checkpoint)).is_file()
    ):
        fault = "is a folder" if Path(str(checkpoint)).is_dir() else "does not exist"
        raise ConfigError(
            f"checkpoint {str(checkpoint)!r} {fault}; give a file, or last or best for the "
            "run's own"
        )
    if run_dir:
        command_line.check_folder(Path(str(run_dir)), "--run_dir")


if __name__ == "__main__":
    sys.exit(main())
