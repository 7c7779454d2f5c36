"""Optimisers and schedules: their formulas, and that training goes on from their state."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from lightning_modules.callbacks.changed_settings import (
    check_schedule,
    check_state,
    schedule_at,
    take_schedule,
)
from lightning_modules.optimizers import MuonAdamW, WarmUpCosine
from tests.helpers.separators import TWO, Gains


def weights() -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape)) for shape in ((4,), (3, 4), (2, 3, 3), (4, 4))]


def steps(parameters: list[nn.Parameter], *optimizers: torch.optim.Optimizer) -> list[Tensor]:
    torch.manual_seed(2)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def test_matrices_are_updated_by_muon_and_others_by_adamw() -> None:
    ours, theirs = weights(), weights()
    muon = Muon(theirs[1:4:2], lr=0.1, weight_decay=0.2, eps=1e-8, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW(theirs[0:3:2], lr=0.1, weight_decay=0.2)
    optimizer = MuonAdamW(ours, lr=0.1, weight_decay=0.2)
    for found, expected in zip(steps(ours, optimizer), steps(theirs, muon, adamw), strict=True):
        assert torch.equal(found, expected)


def test_muon_can_be_switched_off_for_a_group_and_goes_on_from_its_state() -> None:
    ours = weights()

    def create(parameters: list[nn.Parameter]) -> MuonAdamW:
        return MuonAdamW([{"params": parameters[:2], "muon": 0.0}, {"params": parameters[2:]}])

    optimizer = create(ours)
    assert [group["muon"] for group in optimizer.param_groups] == [False, True, False]
    steps(ours, optimizer)
    copied = [nn.Parameter(each.detach().clone()) for each in ours]
    again = create(copied)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for found, expected in zip(steps(copied, again), steps(ours, optimizer), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="Invalid beta"):
        MuonAdamW(weights(), betas=(2.0, 0.0))


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    optimizer = AdamW(weights(), lr=2.0)
    scheduler = WarmUpCosine(optimizer, 2, 6, lowest_factor=0.1)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    cosine = [0.2 + 1.8 * (1 + math.cos(math.pi * part)) / 2 for part in (0, 0.25, 0.5, 0.75, 1)]
    assert rates == pytest.approx([1.0, 2.0, *cosine, 0.2, 0.2])


def test_lightning_steps_it_after_each_step() -> None:
    model = Gains(TWO, lr_scheduler=partial(WarmUpCosine, warm_up_steps=1, total_steps=4))
    assert model.configure_optimizers()["lr_scheduler"]["interval"] == "step"


@pytest.mark.parametrize("arguments", [(5, 5), (-1, 5), (1, 5, 2.0)])
def test_bad_schedules_raise(arguments: Any) -> None:
    with pytest.raises(ValueError, match="give a number"):
        WarmUpCosine(AdamW(weights()), *arguments)


def test_a_resumed_run_takes_a_new_rate_of_both_optimisers() -> None:
    schedule = partial(WarmUpCosine, warm_up_steps=1, total_steps=9)

    def model(rate: float) -> Any:
        made: Any = Gains(TWO, optimizer=partial(MuonAdamW, lr=rate), lr_scheduler=schedule)
        made.matrix = nn.Parameter(torch.eye(3))
        return made

    old, new = model(0.1), model(0.2)
    optimizer = old.create_optimizer()
    scheduler = schedule(optimizer)
    for parameter in old.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    contents = {
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    rates = [group["lr"] for group in optimizer.param_groups]
    check_schedule(new, 2)
    taken = schedule_at(new, contents, new_rate=True)
    check_state(new, contents, taken)
    take_schedule(contents, taken)
    groups = contents["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([2 * rate for rate in rates])
    assert [group["muon"] for group in groups] == [True, False]
