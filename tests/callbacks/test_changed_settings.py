"""New settings of optimiser, scheduler and callbacks in a checkpoint that is resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from lightning_modules.callbacks.changed_settings import (
    check_schedule,
    check_state,
    schedule_at,
    take_schedule,
)
from lightning_modules.configuration.messages import SettingError

Optimizer = Callable[..., torch.optim.Optimizer]


class Model(nn.Module):
    """What is used of a separator: a parameter, and how it is trained."""

    def __init__(self, optimizer: Optimizer, lr_scheduler: Callable[..., Any] | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.parameter_groups: dict[str, Any] = {}


def trained(model: Any, epochs: int) -> dict[str, Any]:
    """Train and return the checkpoint, as Lightning has it."""
    torch.manual_seed(0)
    optimizer = model.optimizer(model.parameters())
    scheduler = model.lr_scheduler(optimizer) if model.lr_scheduler else None
    for _ in range(epochs):
        model.weight.grad = torch.randn(3)
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler:
            scheduler.step()
    return copy.deepcopy({
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()] if scheduler else [],
    })  # fmt: skip


SCHEDULERS = [
    (StepLR, {"step_size": 2}, {"step_size": 3, "gamma": 0.5}),
    (MultiStepLR, {"milestones": [2, 4]}, {"milestones": [1, 9]}),
    (ExponentialLR, {"gamma": 0.9}, {"gamma": 0.8}),
    (CosineAnnealingLR, {"T_max": 10}, {"T_max": 20, "eta_min": 1e-5}),
    (CosineAnnealingWarmRestarts, {"T_0": 3}, {"T_0": 4, "T_mult": 2}),
    (LinearLR, {"total_iters": 9}, {"total_iters": 7, "start_factor": 0.1}),
    (OneCycleLR, {"max_lr": 0.1, "total_steps": 20}, {"max_lr": 0.2, "total_steps": 30}),
]


@pytest.mark.parametrize(("kind", "before", "after"), SCHEDULERS)
@pytest.mark.parametrize("rate", [0.01, 0.02])
def test_a_schedule_is_that_of_a_run_that_had_it_from_the_start(
    kind: Any, before: dict[str, Any], after: dict[str, Any], rate: float
) -> None:
    contents = trained(Model(partial(Adam, lr=0.01), partial(kind, **before)), 5)
    for arguments, lr, decay in ((before, 0.01, 0.0), (after, rate, 0.0), (before, rate, 0.1)):
        new: Any = Model(partial(Adam, lr=lr, weight_decay=decay), partial(kind, **arguments))
        resumed = copy.deepcopy(contents)
        schedule = schedule_at(new, resumed, new_rate=lr != 0.01)
        check_state(new, resumed, schedule)
        take_schedule(resumed, schedule)
        expected = trained(new, 5)
        ours, theirs = resumed["optimizer_states"][0], expected["optimizer_states"][0]
        assert ours["param_groups"] == theirs["param_groups"]
        assert resumed["lr_schedulers"] == expected["lr_schedulers"]


def test_settings_of_the_optimiser_without_a_scheduler() -> None:
    contents = trained(Model(partial(Adam, lr=0.01)), 3)
    settings: dict[str, Any] = {"lr": 1e-5, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 2.0}
    new: Any = Model(partial(Adam, **settings))
    take_schedule(contents, schedule_at(new, contents, new_rate=True))
    (group,) = contents["optimizer_states"][0]["param_groups"]
    assert {name: group[name] for name in settings} == settings
    assert group["params"] == [0]


def test_plateau_keeps_its_history_and_takes_its_settings() -> None:
    before = partial(ReduceLROnPlateau, patience=1, factor=0.1)
    contents = trained(Model(partial(SGD, lr=0.1), before), 6)
    (saved,) = contents["lr_schedulers"]
    reduced = contents["optimizer_states"][0]["param_groups"][0]["lr"]
    assert reduced < 0.1
    after = partial(ReduceLROnPlateau, patience=7, factor=0.5, min_lr=1e-6)
    for lr, new_rate, expected in ((0.1, False, reduced), (0.3, True, 0.3)):
        new: Any = Model(partial(SGD, lr=lr), after)
        schedule = schedule_at(new, contents, new_rate)
        assert schedule.groups[0]["lr"] == expected
        state = schedule.scheduler
        assert state
        assert (state["patience"], state["factor"], state["min_lrs"]) == (7, 0.5, [1e-6])
        for name in ("best", "num_bad_epochs", "last_epoch"):
            assert state[name] == saved[name]
    inverted: Any = Model(partial(SGD, lr=0.1), partial(ReduceLROnPlateau, mode="max"))
    state = schedule_at(inverted, contents, new_rate=False).scheduler
    assert state
    assert state["best"] == -torch.inf


@pytest.mark.parametrize(
    ("kind", "needs", "misses"),
    [
        (Adam, {"amsgrad": True}, "max_exp_avg_sq"),
        (RMSprop, {"momentum": 0.9}, "momentum_buffer"),
        (RMSprop, {"centered": True}, "grad_avg"),
    ],
)
def test_settings_that_need_other_state_are_refused(
    kind: Any, needs: dict[str, Any], misses: str
) -> None:
    contents = trained(Model(partial(kind, lr=0.01)), 2)
    new: Any = Model(partial(kind, lr=0.01, **needs))
    with pytest.raises(SettingError, match=rf"{misses}.*model.init_args.pretrained"):
        check_state(new, contents, schedule_at(new, contents, new_rate=False))


def test_momentum_can_be_added() -> None:
    contents = trained(Model(partial(SGD, lr=0.01)), 2)
    new: Any = Model(partial(SGD, lr=0.01, momentum=0.9))
    schedule = schedule_at(new, contents, new_rate=False)
    check_state(new, contents, schedule)
    take_schedule(contents, schedule)
    assert contents["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "words"),
    [
        (partial(Adam, lr=-1), None, "model.init_args.optimizer: Invalid learning rate: -1"),
        (partial(Adam, lr=0.0), None, "the optimiser's lr is 0.0"),
        (partial(Adam, lr=torch.inf), None, "the optimiser's lr is inf"),
        (partial(Adam, betas=(2, 0)), None, "model.init_args.optimizer: Invalid beta"),
        (partial(Adam, weight_decay=-1), None, "optimizer: Invalid weight_decay"),
        (partial(SGD, nesterov=True), None, "optimizer: Nesterov"),
        (Adam, partial(StepLR, step_size=0), "lr_scheduler: .*ZeroDivisionError"),
        (Adam, partial(CosineAnnealingLR, T_max=0), "lr_scheduler: .*ZeroDivisionError"),
        (Adam, partial(CosineAnnealingWarmRestarts, T_0=0), "lr_scheduler: Expected positive"),
        (Adam, partial(ReduceLROnPlateau, factor=1.5), "lr_scheduler: Factor"),
        (Adam, partial(StepLR, step_size=2, gamma=-1), "after epoch 1: the learning rate becomes"),
        (Adam, partial(OneCycleLR, max_lr=1, total_steps=3), "fails after epoch 3: .*total steps"),
    ],
)
def test_optimisers_and_schedulers_that_cannot_train_are_refused(
    optimizer: Any, scheduler: Any, words: str
) -> None:
    model: Any = Model(optimizer, scheduler)
    with pytest.raises(SettingError, match=words):
        check_schedule(model, 10)
