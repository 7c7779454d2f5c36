"""Loggers write into the run's directory; each directory has one W&B run."""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.files.writing import replacing
from lightning_modules.runtime.launch import is_first_process


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
    # A resumed training and a later test continue the directory's W&B run.
    identity = run_dir / "wandb_run_id"
    if not identity.is_file():
        # Set by the agent of a sweep.
        chosen = os.environ.get("WANDB_RUN_ID") or f"{run_dir.name[:40]}-{uuid.uuid4().hex[:8]}"
        with replacing(identity) as unfinished:
            unfinished.write_text(f"{chosen}\n")
    arguments.name = arguments.name or run_dir.name
    os.environ.setdefault("WANDB_RUN_ID", identity.read_text().strip())
    os.environ.setdefault("WANDB_RESUME", "allow")
    # W&B would copy the terminal, with every state of the progress bars.
    os.environ.setdefault("WANDB_CONSOLE", "off")
    if not arguments.offline and not logged_in():
        # W&B would prompt for a login, and a job would wait for it for ever.
        os.environ.setdefault("WANDB_MODE", "offline")
    if arguments.offline or os.environ.get("WANDB_MODE") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")
        print(
            "Weights & Biases logs offline (`wandb login` changes that); upload the run later with "
            f"wandb sync {run_dir / 'wandb'}/offline-run-*"
        )


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
