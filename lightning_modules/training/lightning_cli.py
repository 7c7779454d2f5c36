"""A run: LightningCLI, the links between its parts, its directory and its logger."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import WandbLogger

from datamodules.musdb import MUSDBDataModule
from datamodules.stream.workers import explain_worker_death
from lightning_modules.base.description import check_same_model
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.checkpoints import Checkpoints, Interrupted
from lightning_modules.checkpoints.files import BEST, AtomicCheckpointIO, latest_readable_checkpoint
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.configuration.build import PARSER_MODE, link_shared
from lightning_modules.configuration.messages import simplify_parser_error
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.runtime import signals
from lightning_modules.runtime.launch import is_first_process, match_launcher, started_processes
from lightning_modules.training import run_lock
from lightning_modules.training.loggers import finish_wandb, prepare_loggers
from lightning_modules.training.run_directory import (
    RUN_DIR_VARIABLE,
    is_used,
    made_here,
    named_run_dir,
    remove_unstarted_runs,
    run_name,
)

_PARSER = {"parser_mode": PARSER_MODE, "exit_on_error": False}


class SettingError(ValueError):
    """A setting that parsed but cannot be worked with; the message names it and the remedy."""


def run(arguments: list[str], given: Sequence[str]) -> None:
    """Run a subcommand.

    Args:
        arguments: Command line with configs resolved.
        given: Command line as the user typed it, to tell how to go on.
    """
    _quiet()
    environment = dict(os.environ)
    # LightningCLI warns about arguments while sys.argv holds others.
    sys.argv[1:] = arguments
    try:
        _start()
    except Interrupted as interrupted:
        if is_first_process():
            _say_how_to_go_on(interrupted.checkpoint, given)
        _leave_together()
        raise
    except Exception as error:
        remove_unstarted_runs()
        if isinstance(error, ArgumentError):
            raise SettingError(simplify_parser_error(str(error))) from error
        if died := explain_worker_death(error):
            raise died from error
        raise
    finally:
        # What was set for this run's loggers and ranks is not for the next one's.
        for name in set(os.environ) - set(environment):
            if name == RUN_DIR_VARIABLE or name.startswith("WANDB_"):
                del os.environ[name]


def _start() -> None:
    try:
        StemlabCLI(
            SourceSeparator,
            MUSDBDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            seed_everything_default=0,
            # A mistake is one line to read, not a page of usage: cli.py prints it.
            parser_kwargs=_PARSER | {name: dict(_PARSER) for name in StemlabCLI.subcommands()},
        )
    finally:
        finish_wandb()
        run_lock.release()


def _say_how_to_go_on(checkpoint: Path, given: Sequence[str]) -> None:
    words = list(given)
    for name, value in (("--run_dir", str(checkpoint.parents[1])), ("--ckpt_path", "last")):
        words = [*_without(words, name), name, value]
    print(
        f"\nStopped; the state is in {checkpoint}\n"
        f"Go on with: python -m lightning_modules.cli {shlex.join(words)}"
    )


def _leave_together() -> None:
    """End all ranks at once: the first exit status is what the others are ended for."""
    # Python gives signals their deadly meaning back as it shuts down, unless they are ignored.
    signals.ignore(signals.TERMINATE, signals.TIME_LIMIT)
    if torch.distributed.is_initialized():
        # The first rank may still have been busy with its loggers.
        torch.distributed.barrier()
    if started_processes() is None and not is_first_process():
        # Lightning takes another status of ranks that it started itself for a crash.
        sys.exit(0)


def _without(words: list[str], name: str) -> list[str]:
    """A command line without an option and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == name:
            skip = True
        elif not word.startswith(f"{name}="):
            kept.append(word)
    return kept


def _quiet() -> None:
    """Silence what tells a user nothing that could be acted on."""
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*`srun` command is available on your system but is not used.*",
        ".*The dirpath has changed from.*",
        ".*predict returned None if it was on purpose.*",
        # Scores are gathered by name, so each rank logs the same figures.
        ".*It is recommended to use `self.log\\('(val|test)/.*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "💡" not in record.getMessage()
    )


class RunConfig(SaveConfigCallback):
    """Keep the whole config of a training as ``config.yaml`` in the run's directory."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, and hand it to the logger; a test or a prediction changes nothing."""
        if stage != "fit":
            return
        config = self.config.clone()
        # How this one start was made, not what the run is.
        started_here = [
            "config",
            "ckpt_path",
            "weights_only",
            "run_dir",
            "trainer.default_root_dir",
        ]
        if started_processes():
            # A later test may have another number of them.
            started_here += ["trainer.devices", "trainer.num_nodes"]
        for key in started_here:
            config.pop(key, None)
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(
            config, path, skip_none=False, overwrite=True, multifile=False, skip_validation=True
        )
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": config.as_dict()})


class StemlabCLI(LightningCLI):
    """LightningCLI with linked facts, a directory per run and checkpoints by name."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what data and model share, and add the run's directory."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of the run; by default runs/ and the config's name",
        )
        link_shared(parser)

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: the checkpoint is held against it, not merged into it."""

    def before_instantiate_classes(self) -> None:
        """Settle the run's directory, its checkpoint and its logger."""
        config = self.config[self.subcommand]
        config.weights_only = True
        run_dir = self._run_dir(config)
        if self.subcommand == "fit" and is_first_process():
            is_new = not run_dir.exists()
            run_lock.acquire(run_dir)
            # Only now: what another process holds is its own.
            if is_new:
                made_here.append(run_dir)
        match_launcher(config.trainer)
        config.run_dir = str(run_dir)
        config.trainer.default_root_dir = str(run_dir)
        self.checkpoint: dict[str, Any] | None = None
        found = _find_checkpoint(str(self.subcommand), config.ckpt_path, run_dir)
        config.ckpt_path = None
        if found:
            path, self.checkpoint = found
            config.ckpt_path = str(path)
        prepare_loggers(config.trainer, run_dir)
        if config.data.init_args.get("seed") is None:
            config.data.init_args.seed = config.seed_everything
        _drop_switched_off(config.trainer)
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # the callback's table says the same, legibly
        if self.subcommand == "predict":
            # Estimates are written as they come; kept in memory they would fill it.
            config.return_predictions = False

    def after_instantiate_classes(self) -> None:
        """Hold the checkpoint against the model before any data is read."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, Checkpoints) for callback in callbacks):
            signals.restore_handlers()  # nothing would be saved
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Lightning always passes it, and W&B warns that it is out of use.
                logger._wandb_init.pop("anonymous", None)
        if self.checkpoint is not None:
            check_same_model(self.checkpoint, self.model)
            self.checkpoint = None
        elif self.model.pretrained:
            taken = load_pretrained(self.model, self.model.pretrained)
            if is_first_process():
                print(taken)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build a trainer that writes whole checkpoints, unless it is told how to write them."""
        settings = self._get(self.config_init, "trainer")
        plugins = settings.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        told = getattr(settings.get("strategy"), "_checkpoint_io", None)
        if not told and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, ImportError, MisconfigurationException) as error:
            reason = simplify_parser_error(str(error))
            if re.search("accelerator|backend|devices|Requirement", reason):
                reason += (
                    f"; trainer.accelerator is {settings.accelerator!r} and trainer.devices "
                    f"{settings.devices!r}: give what is here, such as --trainer.accelerator=cpu "
                    "--trainer.devices=1"
                )
            raise SettingError(reason) from error

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise SettingError(f"seed_everything: {error}") from error

    def instantiate_classes(self) -> None:
        """Build model and data; a value that they refuse is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            raise SettingError(simplify_parser_error(str(error))) from error

    def _run_dir(self, config: Any) -> Path:
        inherited = os.environ.get(RUN_DIR_VARIABLE)
        if inherited:
            return Path(inherited)
        going_on = self.subcommand != "fit" or config.ckpt_path is not None
        configs = [Path(str(path)) for path in config.config]
        if config.run_dir:
            run_dir = Path(config.run_dir)
        elif going_on and is_used(configs[-1].parent / "checkpoints"):
            run_dir = configs[-1].parent  # its config.yaml was given
        elif (started := started_processes()) and started.per_node * started.nodes > 1:
            raise SettingError(
                "several processes were started, and each would look for a directory of its own: "
                "give all of them the same --run_dir"
            )
        else:
            run_dir = named_run_dir(run_name(configs), going_on)
        if not going_on and is_first_process() and is_used(run_dir):
            raise SettingError(
                f"{run_dir} holds a run already; go on with it by --ckpt_path last, or give "
                "another --run_dir"
            )
        run_dir = run_dir.resolve()
        os.environ[RUN_DIR_VARIABLE] = str(run_dir)
        if is_first_process():
            print(f"Run directory: {run_dir}")
        return run_dir


def _drop_switched_off(trainer: Any) -> None:
    """Take out the callbacks of what was switched off; Lightning refuses them then."""
    off = [
        name
        for switch, name in (
            ("enable_progress_bar", "progress.Progress"),
            ("enable_checkpointing", "checkpoints.Checkpoints"),
        )
        if trainer.get(switch) is False
    ]
    trainer.callbacks = [
        callback
        for callback in trainer.get("callbacks") or []
        if not str(callback.class_path).endswith(tuple(off) or "/")
    ]


def _find_checkpoint(
    subcommand: str, given: str | None, run_dir: Path
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a name stands for, and its contents."""
    if given is None:
        if subcommand == "fit":
            return None
        given = "best"
    path = Path(given)
    if given in ("last", "best", "auto"):
        folder = run_dir / "checkpoints"
        if given == "auto" and subcommand == "fit" and not any(folder.glob("*.ckpt")):
            return None  # stopped before it had saved anything, or not begun yet
        path = folder / BEST
        # A run that was stopped before its first validation has no best one yet.
        if given != "best" or not path.is_file():
            path, contents = latest_readable_checkpoint(folder)
            print(f"Checkpoint: {path}")
            return path, contents
        print(f"Checkpoint: {path}")
    return path, read_checkpoint(path)
