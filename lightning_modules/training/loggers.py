"""Loggers write into the run's directory; each directory has one W&B run."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import dict_to_namespace

from datamodules.command_line import check_folder
from datamodules.files.writing import replacing
from lightning_modules.configuration.files import CONFIGS, part, read_config
from lightning_modules.configuration.messages import SettingError
from lightning_modules.runtime.launch import is_first_process

_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
# What W&B accepts, without the characters that are special in a shell or a path.
_RUN_ID = r"(?a:[\w.-]{1,128})"


def keep_loggers(trainer: Any, run_dir: Path, configs: Sequence[Path]) -> None:
    """Give a trainer the loggers of its run, unless this command or its configs set others.

    Args:
        trainer: Settings of the trainer.
        run_dir: Directory of the run.
        configs: Configs of the command line.
    """
    given = any(re.match(r"--trainer(\.logger[+.=]?|=|$)", word) for word in sys.argv[1:])
    stored = run_dir / "config.yaml"
    if given or any(_sets_logger(path) for path in configs) or not _sets_logger(stored):
        return
    trainer.logger = _namespaces(read_config(stored)["trainer"]["logger"])


def _sets_logger(config: Path) -> bool:
    """Whether a config, which may not exist, sets loggers; the base config is no choice."""
    if not config.is_file() or config == CONFIGS / "base.yaml":
        return False
    return "logger" in part(read_config(config), "trainer")


def _namespaces(loggers: Any) -> Any:
    """Loggers of a config as jsonargparse parses them."""
    if isinstance(loggers, list):
        return [_namespaces(each) for each in loggers]
    return dict_to_namespace(loggers) if isinstance(loggers, dict) else loggers


def prepare_loggers(trainer: Any, run_dir: Path) -> None:
    """In a trainer's settings, set the loggers' folders; switch W&B offline without a login."""
    loggers = trainer.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        class_path = getattr(logger, "class_path", "")
        if not class_path:
            continue
        if "save_dir" in logger.init_args:
            logger.init_args.save_dir = str(run_dir)
        if class_path.endswith("WandbLogger"):
            _prepare_wandb(logger.init_args, run_dir)


def _prepare_wandb(arguments: Any, run_dir: Path) -> None:
    if not is_first_process():
        return
    _check_wandb_variables()
    arguments.name = arguments.name or run_dir.name
    # A resumed training and a later test continue the directory's W&B run.
    os.environ.setdefault("WANDB_RUN_ID", _run_id(run_dir))
    os.environ.setdefault("WANDB_RESUME", "allow")
    # W&B would copy the terminal, with every state of the progress bars.
    os.environ.setdefault("WANDB_CONSOLE", "off")
    if not arguments.offline and not logged_in():
        # W&B would prompt for a login, and a job would wait for it for ever.
        os.environ.setdefault("WANDB_MODE", "offline")
        if "WANDB_API_KEY" in os.environ:
            print("WANDB_API_KEY holds no key that W&B accepts")
    if arguments.offline or os.environ.get("WANDB_MODE") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")
        print(
            "Weights & Biases logs offline (`wandb login` changes that); upload the run later with "
            f"wandb sync {run_dir / 'wandb'}/offline-run-*"
        )


def _check_wandb_variables() -> None:
    """Unset empty variables; raise a ``SettingError`` for values that W&B would refuse later."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        if not os.environ[name].strip():
            del os.environ[name]
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in _MODES:
        raise SettingError(f"WANDB_MODE is {mode!r}: give {', '.join(_MODES)}, or unset it")
    identity = os.environ.get("WANDB_RUN_ID", "a")
    if not re.fullmatch(_RUN_ID, identity):
        raise SettingError(
            f"WANDB_RUN_ID is {identity!r}: give up to 128 letters, digits, '-', '_' and '.'"
        )
    if folder := os.environ.get("WANDB_DIR"):
        check_folder(Path(folder), "WANDB_DIR")
    import wandb  # slow to import, and not needed with other loggers

    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            f"a variable WANDB_... has a value that W&B refuses: {reason}"
        ) from error


def _run_id(run_dir: Path) -> str:
    """The W&B run of a run directory; a new one if there is none, or its file is damaged."""
    path = run_dir / "wandb_run_id"
    with suppress(FileNotFoundError, UnicodeDecodeError):
        if re.fullmatch(_RUN_ID, found := path.read_text().strip()):
            return found
        print(f"{path}: holds no name of a W&B run; a new one is started")
    name = re.sub(r"[^\w.-]", "_", run_dir.name, flags=re.ASCII)[:40]
    # The variable is set by the agent of a sweep.
    chosen = os.environ.get("WANDB_RUN_ID") or f"{name}-{uuid.uuid4().hex[:8]}"
    with replacing(path) as unfinished:
        unfinished.write_text(f"{chosen}\n")
    return chosen


def logged_in() -> bool:
    """Whether W&B has a key, without a prompt and without asking its server."""
    import wandb  # slow to import, and not needed with other loggers

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except (wandb.errors.Error, OSError, ValueError):
        return False
    finally:
        # Otherwise W&B would ignore environment variables that are set after this.
        wandb.teardown()


def finish_wandb() -> None:
    """Finish the W&B run, if there is one, so that all of it is written."""
    if (wandb := sys.modules.get("wandb")) and wandb.run is not None:
        try:
            wandb.finish()
        except Exception as error:
            # A signal may have ended its service process; the run's state is saved all the same.
            print(f"Weights & Biases lost its last entries: {error}", file=sys.stderr)
            with suppress(Exception):
                wandb.teardown()  # otherwise it tries again at exit
