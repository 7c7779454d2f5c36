"""Give a resumed run the settings of its config where the checkpoint holds others."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.errors import counted
from lightning_modules.base.parameter_groups import Group, create_optimizer, group_parameters
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.lightning_internals import set_batches_of_epoch
from lightning_modules.configuration.messages import SettingError

# State of ReduceLROnPlateau that is no setting.
_HISTORY = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")
# More epochs of a schedule are not tried out before a training.
_MOST_EPOCHS = 1000
_NEW_RUN = (
    "leave them as they were, or start a new run from the weights with "
    "--model.init_args.pretrained instead of --ckpt_path"
)


class Schedule(NamedTuple):
    """State of an optimiser and its scheduler at a position of a run.

    Attributes:
        groups: Settings of each group of parameters, among them the learning rate.
        scheduler: State of the scheduler; None without one.
    """

    groups: list[dict[str, Any]]
    scheduler: dict[str, Any] | None


def check_schedule(model: SourceSeparator, epochs: int | None) -> None:
    """Step a model's optimiser and scheduler, on stand-ins for weights, through a run's epochs.

    Raises:
        SettingError: They cannot be created, or fail in one of the epochs.
    """
    optimizer, scheduler = _build(model)
    for rate in (group["lr"] for group in optimizer.param_groups):
        if not 0 < rate < math.inf:
            raise SettingError(f"the optimiser's lr is {rate}: must be a finite number above 0")
    if scheduler is not None and hasattr(optimizer, "eval"):
        raise SettingError(
            f"model.init_args.lr_scheduler: {type(optimizer).__name__} is schedule-free; omit the "
            "scheduler with --model.init_args.lr_scheduler=null"
        )
    if scheduler is not None:
        _step(optimizer, scheduler, min(epochs or 1, _MOST_EPOCHS))


def _build(model: SourceSeparator) -> tuple[Optimizer, LRScheduler | None]:
    """Create optimiser and scheduler for a few numbers that stand for the weights."""
    key = "parameter_groups"
    try:
        groups = group_parameters(model, model.parameter_groups)
        key = "optimizer"
        stand_ins = [Group(_stand_ins(each.parameters), each.settings) for each in groups]
        optimizer = create_optimizer(model.optimizer, stand_ins)
        key = "lr_scheduler"
        return optimizer, model.lr_scheduler(optimizer) if model.lr_scheduler else None
    except Exception as error:
        raise SettingError(f"model.init_args.{key}: {_reason(error)}") from error


def _stand_ins(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """One number for each number of axes: some optimisers group parameters by it."""
    axes = dict.fromkeys(parameter.ndim for parameter in parameters)
    return [nn.Parameter(torch.zeros([1] * number)) for number in axes]


def _step(optimizer: Optimizer, scheduler: LRScheduler, epochs: int) -> None:
    arguments: list[Any] = [1.0] if isinstance(scheduler, ReduceLROnPlateau) else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(epochs):
            try:
                optimizer.step()
                scheduler.step(*arguments)
                rate = optimizer.param_groups[0]["lr"]
                if not 0 <= rate < math.inf:
                    raise ValueError(f"the learning rate becomes {rate:g}")
            except Exception as error:
                raise SettingError(
                    f"model.init_args.lr_scheduler: fails after epoch {epoch}: {_reason(error)}"
                ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def schedule_at(model: SourceSeparator, contents: Mapping[str, Any], new_rate: bool) -> Schedule:
    """What a checkpoint would hold if its run had had the model's settings from the start.

    The scheduler is stepped from the start of the run. That of ``ReduceLROnPlateau`` depends
    on metrics: its history is kept, and so is the learning rate unless ``new_rate`` is set.

    Args:
        model: The model, with optimiser and scheduler as configured.
        contents: The checkpoint.
        new_rate: Whether the optimiser's learning rate was changed.
    """
    optimizer, scheduler = _build(model)
    saved = next(iter(contents["lr_schedulers"]), None)
    state = None
    if scheduler is not None and saved is not None:
        is_plateau = isinstance(scheduler, ReduceLROnPlateau)
        if not is_plateau:
            _step(optimizer, scheduler, saved["last_epoch"])
        state = scheduler.state_dict()
        if is_plateau and state["mode"] == saved["mode"]:
            state |= {name: saved[name] for name in _HISTORY if name in saved}
        if is_plateau and not new_rate:
            saved_groups = contents["optimizer_states"][0]["param_groups"]
            for group, saved_group in zip(optimizer.param_groups, saved_groups, strict=False):
                group["lr"] = saved_group["lr"]
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return Schedule(groups, state)


def take_schedule(contents: Mapping[str, Any], schedule: Schedule) -> None:
    """Write a schedule into a checkpoint's state of optimiser and scheduler."""
    saved = contents["optimizer_states"][0]["param_groups"]
    for group, new in zip(saved, schedule.groups, strict=True):
        group.update(copy.deepcopy(new))
    for state in contents["lr_schedulers"][:1]:
        state.update(schedule.scheduler or {})


def check_state(model: SourceSeparator, contents: Mapping[str, Any], schedule: Schedule) -> None:
    """Try a step with new settings and a checkpoint's state of the optimiser.

    Raises:
        SettingError: The settings need state that the checkpoint does not hold.
    """
    saved = contents["optimizer_states"][0]
    if len(saved["param_groups"]) != len(schedule.groups):
        raise SettingError(
            f"the checkpoint's optimiser has {counted(len(saved['param_groups']), 'group')} of "
            f"weights, with these settings it has {len(schedule.groups)}; {_NEW_RUN}"
        )
    groups = group_parameters(model, model.parameter_groups)
    whole = create_optimizer(model.optimizer, groups)
    if hasattr(whole, "eval"):
        # Schedule-free optimisers keep the state of their average among the settings.
        raise SettingError(
            f"a resumed run cannot give {type(whole).__name__} new settings of the model; "
            f"{_NEW_RUN}"
        )
    first = whole.param_groups[0]["params"][0]
    settings = next(g.settings for g in groups if any(each is first for each in g.parameters))
    parameter = nn.Parameter(torch.zeros_like(first, device="cpu"))
    optimizer = create_optimizer(model.optimizer, [Group([parameter], settings)])
    state = {0: copy.deepcopy(saved["state"][0])} if 0 in saved["state"] else {}
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.load_state_dict(
            {"state": state, "param_groups": [{**schedule.groups[0], "params": [0]}]}
        )
        optimizer.step()
    except Exception as error:
        raise SettingError(
            "the optimiser's state in the checkpoint does not fit its new settings "
            f"({_reason(error)}); {_NEW_RUN}"
        ) from error


class ChangedSettings(Callback):
    """Give a resumed run the new settings; the command line adds this callback.

    Args:
        keys: Settings that differ from those of the checkpoint's run; None if they are not known.
        seed: Seed of the run, if it was changed.
    """

    def __init__(self, keys: list[str] | None, seed: int | None = None) -> None:
        self.keys, self.seed = keys, seed

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Replace settings in the checkpoint before Lightning restores them."""
        assert isinstance(pl_module, SourceSeparator)
        if trainer.state.fn != "fit":
            return
        if changes_schedule(self.keys) and checkpoint["optimizer_states"]:
            new_rate = changes_rate(self.keys)
            take_schedule(checkpoint, schedule_at(pl_module, checkpoint, new_rate))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key, {})
            for name in _arguments_of(callback, self.keys) & set(state):
                state[name] = getattr(callback, name)
                if name == "patience" and state[name] > state["wait_count"]:
                    state["stopping_reason"] = EarlyStoppingReason.NOT_STOPPED.value
        if self.seed is not None and "exact_resume" in checkpoint:
            checkpoint["exact_resume"]["seed"] = self.seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Account for a new number of batches in an epoch."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        former, number = data.batches_of_checkpoint, trainer.num_training_batches
        if former is None or former == number:
            return
        if batch := data.start[1]:
            raise SettingError(
                f"the checkpoint is at batch {batch} of {former} in an epoch, and the "
                f"new settings divide epochs into {counted(int(number), 'batch', 'batches')}; "
                f"resume from a checkpoint at "
                "the end of an epoch, such as one of the best, or with the settings of its run"
            )
        set_batches_of_epoch(trainer, int(number))


def changes_schedule(keys: list[str] | None) -> bool:
    """Whether settings of the model are among the changed ones: optimisers depend on these."""
    return keys is None or any(key.startswith("model.") for key in keys)


def changes_rate(keys: list[str] | None) -> bool:
    """Whether the learning rate of any weights is among the changed settings."""
    rates = ("model.init_args.optimizer.init_args.lr", "model.init_args.parameter_groups")
    return keys is not None and any(key in keys for key in rates)


def _arguments_of(callback: Callback, keys: list[str] | None) -> set[str]:
    """Names of the changed arguments of a callback."""
    start = f"trainer.callbacks.{type(callback).__name__}"
    return {key.rpartition(".")[2] for key in keys or [] if key.startswith(start)}
