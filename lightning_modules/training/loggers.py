"""Where a run is logged: files in its own directory, and one W&B run a directory."""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_modules.runtime.launch import is_first_process


def prepare_loggers(trainer: Any, run_dir: Path) -> None:
    """Send the loggers' files to the run's directory; take W&B offline if nobody is logged in.

    Args:
        trainer: The trainer's settings.
        run_dir: The run's directory.
    """
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
    # One W&B run a directory: a resumed training and a later test go on in it.
    if not is_first_process():
        return
    identity = run_dir / "wandb_run_id"
    if not identity.is_file():
        run_dir.mkdir(parents=True, exist_ok=True)
        # The agent of a sweep has chosen it.
        chosen = os.environ.get("WANDB_RUN_ID") or f"{run_dir.name[:40]}-{uuid.uuid4().hex[:8]}"
        identity.write_text(f"{chosen}\n")
    arguments.name = arguments.name or run_dir.name
    os.environ.setdefault("WANDB_RUN_ID", identity.read_text().strip())
    os.environ.setdefault("WANDB_RESUME", "allow")
    # W&B's copy of the terminal garbles progress bars and stores each of their states.
    os.environ.setdefault("WANDB_CONSOLE", "off")
    if not arguments.offline and not logged_in():
        # Otherwise W&B would ask, and a job would wait for an answer for ever.
        os.environ.setdefault("WANDB_MODE", "offline")
    if arguments.offline or os.environ.get("WANDB_MODE") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")
        print(
            "Weights & Biases logs offline (`wandb login` changes that); send the run later with: "
            f"wandb sync {run_dir / 'wandb'}/offline-run-*"
        )


def logged_in() -> bool:
    """Whether W&B has a key, without asking the user or its server for one."""
    import wandb  # here, for those who log elsewhere

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except (wandb.errors.Error, OSError, ValueError):
        return False
    finally:
        # It has read the environment now, and would not see what is set after this.
        wandb.teardown()


def finish_wandb() -> None:
    """End the W&B run, if there is one, so that nothing of it is left in memory only."""
    if (wandb := sys.modules.get("wandb")) and wandb.run is not None:
        try:
            wandb.finish()
        except Exception as error:
            # Its service may have had the signal too; the run's state is saved all the same.
            print(f"Weights & Biases lost its last entries: {error}", file=sys.stderr)
            with suppress(Exception):
                wandb.teardown()  # or it would try again at exit
