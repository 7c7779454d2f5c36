"""Run a subcommand: LightningCLI, and what it sets up before it builds model and data."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from datamodules import command_line
from datamodules.musdb import MUSDBDataModule, start_of
from datamodules.stream.workers import explain_worker_error
from lightning_modules.base.description import check_same_model
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.changed_settings import (
    ChangedSettings,
    changes_rate,
    changes_schedule,
    check_schedule,
    check_state,
    schedule_at,
)
from lightning_modules.callbacks.checkpoints import Checkpoints, Interrupted
from lightning_modules.callbacks.lightning_internals import (
    CLIBase,
    copies_this_process,
    drop_anonymous,
    has_checkpoint_io,
    observe_ranks,
)
from lightning_modules.callbacks.optional_files import make_optional
from lightning_modules.callbacks.summary import replace_default_summary
from lightning_modules.checkpoints.files import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    latest_readable_checkpoint,
)
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.configuration.build import PARSER_MODE, link_shared
from lightning_modules.configuration.messages import SettingError, simplify_parser_error
from lightning_modules.configuration.paths import RUN_CHECKPOINTS, check_paths, record_data_set
from lightning_modules.configuration.trainer_settings import check_callbacks, check_trainer
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.runtime import ranks, signals
from lightning_modules.runtime.launch import is_first_process, match_launcher, started_processes
from lightning_modules.training import changes, run_directory
from lightning_modules.training.loggers import finish_wandb, keep_loggers, prepare_loggers
from lightning_modules.version import version

# Of a constructor or parser that a setting does not suit.
_SETTING_ERRORS = (
    ArgumentError,
    ArithmeticError,
    LookupError,
    MisconfigurationException,
    OmegaConfBaseException,
    RuntimeError,
    TypeError,
    ValueError,
    yaml.YAMLError,
)
_PARSER = {"parser_mode": PARSER_MODE, "exit_on_error": False}
_HIDDEN_WARNINGS = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*LeafSpec.*",
    ".*smaller than the logging interval.*",
    ".*`srun` command is available on your system but is not used.*",
    ".*The dirpath has changed from.*",
    ".*predict returned None if it was on purpose.*",
    # Each rank logs the same scores, which it has gathered from all ranks.
    ".*It is recommended to use `self.log\\('(val|test)/.*sync_dist=True.*",
)


@ranks.together()
def run(arguments: list[str], given: Sequence[str]) -> None:
    """Run a subcommand.

    Args:
        arguments: Command line with configs resolved.
        given: Command line as the user typed it, for the printed command that resumes the run.
    """
    _hide_warnings()
    observe_ranks(ranks.observe)
    environment = dict(os.environ)
    # LightningCLI warns if sys.argv differs from its arguments.
    sys.argv[1:] = arguments
    try:
        _run_cli()
    except Interrupted as interrupted:
        if is_first_process():
            _print_resume_command(interrupted.checkpoint, given)
        _exit_together()
        raise
    except Exception as error:
        run_directory.remove_unstarted_runs()
        if isinstance(error, MisconfigurationException) or _raised_by_lightning(error):
            raise SettingError(simplify_parser_error(str(error))) from error
        if explained := explain_worker_error(error):
            raise explained from error
        raise
    finally:
        # Another run in this process must not inherit this run's variables.
        for name in set(os.environ) - set(environment):
            if name == run_directory.RUN_DIR_VARIABLE or name.startswith("WANDB_"):
                del os.environ[name]


def _raised_by_lightning(error: Exception) -> bool:
    """Whether Lightning itself, and no library below it, refuses a value."""
    last = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return isinstance(error, ValueError) and last.startswith(("pytorch_lightning", "lightning_fab"))


def _run_cli() -> None:
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
            # Raise instead of printing the usage: cli.py prints one line.
            parser_kwargs=_PARSER
            | {"prog": command_line.program("lightning_modules.cli")}
            | {name: dict(_PARSER) for name in StemlabCLI.subcommands()},
        )
    finally:
        finish_wandb()
        run_directory.release()


def _hide_warnings() -> None:
    """Hide warnings that the user cannot act on."""
    for message in _HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "💡" not in record.getMessage()
    )


def _print_resume_command(checkpoint: Path, given: Sequence[str]) -> None:
    replaced = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    replaced.add_argument("--run_dir", "--out")
    replaced.add_argument("--ckpt_path")
    _, kept = replaced.parse_known_args(given)
    words = [*kept, "--run_dir", str(checkpoint.parents[1]), "--ckpt_path", "last"]
    print(
        f"\nStopped; the state is saved in {checkpoint}\n"
        f"Resume with: {command_line.program('lightning_modules.cli')} {shlex.join(words)}"
    )


def _exit_together() -> None:
    """End all ranks at once: launchers kill the others after the first exit."""
    # Python restores the default handlers at shutdown, except of ignored signals.
    signals.ignore(signals.TERMINATE, signals.TIME_LIMIT, signals.HANG_UP)
    if torch.distributed.is_initialized():
        # The first rank may still be finishing its loggers.
        torch.distributed.barrier()
    if started_processes() is None and not is_first_process():
        # Lightning treats another status of ranks that it started as a crash.
        sys.exit(0)


class RunConfig(SaveConfigCallback):
    """Save the complete config of a training as ``config.yaml`` in the run's directory.

    It is written when training starts, not by a start that fails before. A former one with other
    settings, of a run that is resumed, is kept as ``config_until_step_<steps>.yaml``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing: the config is saved when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the config on the first rank."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config and log it."""
        config = self.config.clone()
        left_out = [*changes.OF_A_START]
        if started_processes():
            # A later test may be started with other numbers of processes.
            left_out += ["trainer.devices", "trainer.num_nodes"]
        for key in left_out:
            config.pop(key, None)
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        changes.save_config(Path(trainer.default_root_dir), text, trainer.global_step)
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": config.as_dict(), "stemlab": version()})


class StemlabCLI(CLIBase):
    """LightningCLI with linked settings, a directory per run and checkpoints by name."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the settings that data and model share, and add the run's directory."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of the run; by default runs/ and the config's name",
        )
        link_shared(parser)

    def before_instantiate_classes(self) -> None:
        """Check paths; set the run's directory, checkpoint and loggers."""
        config = self.config[self.subcommand]
        check_paths(config)
        record_data_set(config)
        check_trainer(config.trainer, str(self.subcommand))
        if self.subcommand == "fit":
            check_callbacks(config.trainer, config.model.init_args.get("sources") or [])
        if config.seed_everything is False:
            raise SettingError("seed_everything is false: give a number, or true for a random one")
        if config.weights_only is False:
            raise SettingError(
                "weights_only: checkpoints hold only weights and plain data; omit it"
            )
        run_dir = run_directory.choose_run_dir(str(self.subcommand), config)
        if run_dir.exists() and not os.access(run_dir, os.W_OK):
            raise SettingError(
                f"{run_dir}: is not writable, and logs and scores are written there; give another "
                "--run_dir, and the checkpoint with --ckpt_path"
            )
        if self.subcommand == "fit" and is_first_process():
            run_directory.acquire(run_dir)
        match_launcher(config.trainer)
        config.run_dir = config.trainer.default_root_dir = str(run_dir)
        self.checkpoint: dict[str, Any] | None = None
        found = None
        if resolve_name(config.model.class_path).loads_weights:
            _check_loads_weights(config.model, str(self.subcommand), config.ckpt_path)
        else:
            found = _find_checkpoint(str(self.subcommand), config.ckpt_path, run_dir)
        config.ckpt_path, config.weights_only = None, True
        if found:
            path, self.checkpoint = found
            config.ckpt_path = str(path)
            if self.subcommand == "fit":
                run_directory.check_owner(run_dir, path)
        if self.subcommand != "fit":
            keep_loggers(config.trainer, run_dir, [Path(str(path)) for path in config.config])
        prepare_loggers(config.trainer, run_dir)
        if config.data.init_args.get("seed") is None:
            config.data.init_args.seed = config.seed_everything
        _drop_disabled_callbacks(config.trainer)
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # BSSEval prints a more readable table
        if self.subcommand == "predict":
            # Estimates are written track by track; all of them would not fit into memory.
            config.return_predictions = False

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; explain what libraries do not accept."""
        with _explained():
            super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; explain settings that they do not accept."""
        with _explained():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build a trainer that writes checkpoints atomically, unless another way is configured."""
        settings = self.config_init[self.subcommand].trainer
        plugins = settings.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        configured = has_checkpoint_io(settings.get("strategy"))
        if not configured and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (*_SETTING_ERRORS, ImportError) as error:
            reason = simplify_parser_error(str(error))
            if re.search("accelerator|backend|devices|Requirement", reason):
                reason += (
                    f"; trainer.accelerator is {settings.accelerator!r} and trainer.devices "
                    f"{settings.devices!r}: give what this machine has, such as "
                    "--trainer.accelerator=cpu --trainer.devices=1"
                )
            raise SettingError(reason) from error

    def after_instantiate_classes(self) -> None:
        """Compare the checkpoint with the model before any data is read."""
        check_strategy(self.trainer.strategy)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        replace_default_summary(callbacks)
        if not any(isinstance(callback, Checkpoints) for callback in callbacks):
            signals.restore_handlers()  # without it, nothing would be saved after a signal
        for logger in self.trainer.loggers:
            drop_anonymous(logger)
            make_optional(logger)
        if self.checkpoint is not None:
            check_same_model(self.checkpoint, self.model)
        elif self.model.pretrained:
            transfer = load_pretrained(self.model, self.model.pretrained)
            if is_first_process():
                print(transfer)
        if self.subcommand == "fit":
            with _explained():
                report = self.model.prepare_training()
            if report and is_first_process():
                print(report)
            check_schedule(self.model, self.trainer.max_epochs)
            if self.checkpoint is not None:
                self._take_changes(self.checkpoint)
        self.checkpoint = None

    def after_fit(self) -> None:
        """Say so if there is no best checkpoint."""
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        if is_first_process() and (folder / LAST).is_file() and not (folder / BEST).exists():
            validated = "val/loss" in self.trainer.callback_metrics
            reason = "No validation has a score" if validated else "No validation ran"
            print(f"{reason}: there is no {BEST}, only {LAST}")

    def _take_changes(self, contents: dict[str, Any]) -> None:
        """Let a resumed run take the settings that differ from those of its checkpoint."""
        config = self.config[str(self.subcommand)]
        path = Path(config.ckpt_path)
        stored = changes.stored_config(path, contents.get("global_step", 0))
        if stored is None:
            keys = seed = None
            text = (
                f"{path}: its run has no readable config.yaml, so that settings cannot be compared"
                "; those of this command are used"
            )
        else:
            dumped = self._parser(self.subcommand).dump(
                config, skip_none=False, skip_validation=True
            )
            found = changes.find_changes(stored, yaml.safe_load(dumped))
            changes.check_changes(found, path, _position(self.datamodule, contents))
            keys = [change.key for change in found]
            seed = config.seed_everything if "seed_everything" in keys else None
            text = changes.report(found) if found else ""
        if changes_schedule(keys) and contents.get("optimizer_states"):
            schedule = schedule_at(self.model, contents, changes_rate(keys))
            check_state(self.model, contents, schedule)
            text += f"\n  learning rate of the next step: {schedule.groups[0]['lr']:g}"
        if text and is_first_process():
            print(text)
        # In front of the callbacks whose state it changes.
        self.trainer.callbacks.insert(0, ChangedSettings(keys, seed))  # type: ignore[attr-defined]


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of the libraries that read settings into a ``SettingError`` of one line."""
    try:
        yield
    except SettingError:
        raise
    except _SETTING_ERRORS as error:
        text = simplify_parser_error(str(error))
        if not isinstance(error, (ValueError, ArgumentError, MisconfigurationException)):
            text = f"{type(error).__name__}: {text}"
        raise SettingError(text) from error


def _position(data: LightningDataModule, contents: Mapping[str, Any]) -> str:
    """Where within an epoch a checkpoint was saved; empty at the end of one."""
    state: Mapping[str, Any] = contents.get(type(data).__qualname__, {})
    batch = start_of(state)[1] if state else 0
    return f"at batch {batch} of {state['batches_per_epoch']} of an epoch" if batch else ""


def check_strategy(strategy: Any) -> None:
    """Raise if the ranks would be copies of this process, with its locks, signals and threads."""
    if copies_this_process(strategy):
        raise SettingError(
            "trainer.strategy: ranks that are forked or spawned from this process, as with "
            "ddp_spawn, ddp_fork and ddp_notebook, do not work here; give --trainer.strategy=ddp, "
            "which starts the command line again for each device"
        )


def _drop_disabled_callbacks(trainer: Any) -> None:
    """Remove callbacks of disabled features, with which Lightning raises."""
    callbacks = trainer.get("callbacks") or []
    for switch, name in (
        ("enable_progress_bar", "progress.Progress"),
        ("enable_checkpointing", "checkpoints.Checkpoints"),
    ):
        if trainer.get(switch) is False:
            callbacks = [each for each in callbacks if not str(each.class_path).endswith(name)]
    trainer.callbacks = callbacks


def _check_loads_weights(model: Any, subcommand: str, checkpoint: str | None) -> None:
    """Raise if a model that consists of trained models is to be trained, or given weights."""
    name = model.class_path.rpartition(".")[2]
    if subcommand == "fit":
        raise SettingError(f"{name} consists of trained models: train these, and test {name}")
    if checkpoint is not None:
        raise SettingError(f"ckpt_path: {name} loads the weights of its models itself; omit it")


def _find_checkpoint(
    subcommand: str, given: str | None, run_dir: Path
) -> tuple[Path, dict[str, Any]] | None:
    """Find and read the checkpoint that ``ckpt_path`` names."""
    if given is None:
        if subcommand == "fit":
            return None
        given = "best"
    if given not in RUN_CHECKPOINTS:
        return Path(given), read_checkpoint(Path(given))
    folder = run_dir / "checkpoints"
    if given == "auto" and subcommand == "fit" and not any(folder.glob("*.ckpt")):
        return None  # nothing was saved yet
    # A run that was stopped before its first validation has no best one.
    if given == "best" and (folder / BEST).is_file():
        found = folder / BEST, read_checkpoint(folder / BEST)
    else:
        found = latest_readable_checkpoint(folder)
    why = f" (the latest: there is no {BEST})" if given == "best" and found[0].name != BEST else ""
    print(f"Checkpoint: {found[0]}{why}")
    return found
