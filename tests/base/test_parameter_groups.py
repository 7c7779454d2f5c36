"""Groups of weights with settings of their own, and frozen weights."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR

from lightning_modules.architectures.unet import UNet
from lightning_modules.base.parameter_groups import (
    check_group_settings,
    create_optimizer,
    freeze,
    group_parameters,
)
from lightning_modules.callbacks.changed_settings import (
    check_schedule,
    check_state,
    schedule_at,
    take_schedule,
)
from lightning_modules.configuration.messages import SettingError
from tests.helpers.separators import TWO, Gains


def network() -> nn.Module:
    return nn.ModuleDict({
        "encoder": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
        "decoder": nn.Linear(4, 3),
    })  # fmt: skip


def test_the_first_pattern_that_is_found_decides() -> None:
    model, settings = network(), {"bias": {"weight_decay": 0.0}, "^encoder": {"lr_factor": 0.1}}
    optimizer = create_optimizer(
        partial(AdamW, lr=0.5, weight_decay=0.25), group_parameters(model, settings)
    )
    found = [
        (len(group["params"]), group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert found == [(3, 0.5, 0.0), (2, pytest.approx(0.05), 0.25), (1, 0.5, 0.25)]
    assert len(group_parameters(model, {})) == 1


def test_frozen_weights_and_statistics_do_not_change() -> None:
    model: Any = network()
    settings = {"encoder": {"lr_factor": 0.0}}
    freeze(model, settings)
    before = copy.deepcopy(model.state_dict())
    optimizer = create_optimizer(
        partial(AdamW, lr=0.1, weight_decay=0.1), group_parameters(model, settings)
    )
    model.decoder(model.encoder(torch.randn(5, 3))).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"decoder.weight", "decoder.bias"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"(": {}}, "not a regular expression"),
        ({"a": {"lr_factor": -1.0}}, "lr_factor of 'a' is -1"),
        ({"middle": {}}, "'middle' is in no weight's name.*encoder.0.weight"),
        ({"coder": {}, "encoder": {}}, "'encoder' is in no weight's name"),
        ({"coder": {"lr_factor": 0.0}}, "freezes all weights"),
        ({"coder": {"decay": 0.1}}, "SGD has no setting 'decay'.*weight_decay"),
    ],
)
def test_bad_groups_raise(settings: dict[str, dict[str, float]], words: str) -> None:
    def build() -> None:
        check_group_settings(settings)
        create_optimizer(partial(SGD, lr=0.1), group_parameters(network(), settings))

    with pytest.raises(ValueError, match=words):
        build()


def model(**settings: float) -> UNet:
    return UNet(
        TWO,
        **UNet.tiny,
        optimizer=partial(AdamW, lr=0.1),
        lr_scheduler=partial(StepLR, step_size=1, gamma=0.5),
        parameter_groups={"bias": {"weight_decay": 0.0, **settings}},
    )


def test_a_resumed_run_takes_new_settings_of_its_groups() -> None:
    old, new = model(), model(lr_factor=0.1)
    configured = old.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for parameter in old.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    contents = {
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    check_schedule(new, 3)
    schedule = schedule_at(new, contents, new_rate=False)
    check_state(new, contents, schedule)
    take_schedule(contents, schedule)
    groups = contents["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([0.0025, 0.025])
    assert [group["weight_decay"] for group in groups] == [0.0, 0.01]
    resumed = new.configure_optimizers()["optimizer"]
    resumed.load_state_dict(contents["optimizer_states"][0])
    with pytest.raises(SettingError, match="has 2 groups of weights, with these settings it has 1"):
        check_state(new, contents, schedule._replace(groups=schedule.groups[:1]))


def test_bad_groups_are_named_before_training() -> None:
    with pytest.raises(SettingError, match=r"parameter_groups: .*'nothing' is in no weight's name"):
        check_schedule(Gains(TWO, parameter_groups={"nothing": {}}), 1)
