"""The command line: ``python -m lightning_modules.cli fit --config unet.yaml``.

This file finds the configs, puts ``configs/base.yaml`` in front and reports what
can be seen to be wrong without Lightning, whose import takes seconds; then
``run.py`` takes over. Nothing heavy is imported at the top: the processes that
score tracks import this file again.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_modules import launch, signals

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SUBCOMMANDS = ("fit", "validate", "test", "predict")
_SECTIONS = ("seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only", "run_dir")


class ConfigError(ValueError):
    """A config or an argument cannot be used; the message names it and the remedy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    signals.release()
    if given[:1] == ["fit"]:
        # One that comes during the seconds of the imports is heeded after the first batch.
        signals.listen(signals.TERMINATE, signals.TIME_LIMIT)
    status = _main(given)
    # Not after a stop: SLURM may say it again while the process ends.
    signals.release()
    return status


def _main(given: list[str]) -> int:
    try:
        prepared = prepare(given)
        launch.started_processes()
        from lightning_modules.run import run

        run(prepared, given)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (ConfigError, launch.LaunchError) as error:
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
    from datamodules.audio import DataError
    from lightning_modules.callbacks.late_scores import MonitorError
    from lightning_modules.callbacks.non_finite import LossError
    from lightning_modules.description import CheckpointError
    from lightning_modules.run import SettingError

    return isinstance(error, (DataError, CheckpointError, LossError, MonitorError, SettingError))


def prepare(arguments: Sequence[str]) -> list[str]:
    """Resolve configs to files, put the base config in front, and check both.

    Args:
        arguments: Command line after the program's name.

    Returns:
        The command line for LightningCLI.

    Raises:
        ConfigError: A config is missing or malformed, or a path does not exist.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        if arguments and not arguments[0].startswith("-"):
            raise ConfigError(
                f"unknown subcommand {arguments[0]!r}: use one of {', '.join(SUBCOMMANDS)}"
            )
        return list(arguments)
    prepared = [arguments[0], "--config", str(CONFIGS / "base.yaml")]
    configs: list[tuple[Path, dict[str, Any]]] = []
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            value = value if equals else next(rest, "")
            path = find_config(value)
            configs.append((path, read_config(path)))
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
    if not {"-h", "--help"} & set(arguments):
        _check_model(arguments, configs)
    _check_paths(arguments, [settings for _, settings in configs])
    return prepared


def find_config(name: str) -> Path:
    """Find a config by path, or by name in ``configs/``.

    Args:
        name: A path, or a name with or without ``.yaml``.

    Returns:
        The file.

    Raises:
        ConfigError: There is no such file.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if name and path.is_file():
            return path.resolve()
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base")
    close = difflib.get_close_matches(Path(name).stem, known, 1)
    raise ConfigError(
        f"config {name!r} does not exist, here or in {CONFIGS};"
        + (f" did you mean {close[0]}.yaml?" if close else "")
        + f" there are: {', '.join(f'{stem}.yaml' for stem in known)}"
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand once only; the plain loader keeps the last in silence."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice; keep one of them", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config and check its outline.

    Args:
        path: The YAML file.

    Returns:
        Its contents.

    Raises:
        ConfigError: It is no YAML mapping, a key stands twice, or a section is unknown.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace("<unicode string>", path.name).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds {type(settings).__name__}, a mapping was expected")
    for key in settings:
        if key not in _SECTIONS:
            close = difflib.get_close_matches(str(key), _SECTIONS, 1)
            raise ConfigError(
                f"{path}: unknown key {key!r};"
                + (f" did you mean {close[0]!r}?" if close else "")
                + f" expected {', '.join(_SECTIONS)}"
            )
    return settings


def _check_model(arguments: Sequence[str], configs: list[tuple[Path, dict[str, Any]]]) -> None:
    """Check that some config or argument names the architecture."""
    if any(argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments):
        return
    if any(
        isinstance(settings.get("model"), str) or _part(settings, "model").get("class_path")
        for _, settings in configs
    ):
        return
    if configs:
        variant = configs[-1][0]
        parents = [
            path.name
            for path in sorted(variant.parent.glob("*.yaml"), key=lambda path: -len(path.stem))
            if variant.stem.startswith(f"{path.stem}_")
        ]
        parent = parents[-1] if parents else "unet.yaml"
        raise ConfigError(
            f"{variant.name} names no model (model.class_path): it is a variant; put its "
            f"architecture in front: --config {parent} --config {variant.name}"
        )
    raise ConfigError(
        f"no config given: add one, as in `{arguments[0]} --config unet.yaml`; there are: "
        + ", ".join(sorted(path.name for path in CONFIGS.glob("*.yaml") if path.stem != "base"))
    )


def _part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a config; none if it is absent, or a bare class name."""
    part = settings.get(name)
    return part if isinstance(part, dict) else {}


def _check_paths(arguments: Sequence[str], configs: list[dict[str, Any]]) -> None:
    """Check the data's roots and the checkpoint's path, wherever they are given."""
    root: Any = os.environ.get("MUSDB_PATH")
    checkpoint: Any = None
    download: Any = False
    for settings in configs:
        data = _part(_part(settings, "data"), "init_args")
        root, download = data.get("root") or root, data.get("download", download)
        checkpoint = settings.get("ckpt_path") or checkpoint
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
        raise ConfigError(
            f"checkpoint {str(checkpoint)!r} does not exist; give a file, or last or best for the "
            "run's own"
        )


if __name__ == "__main__":
    sys.exit(main())
