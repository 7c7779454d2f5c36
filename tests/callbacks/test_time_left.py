"""The estimate of the time that a training still takes."""

from __future__ import annotations

import math
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.callbacks import Timer

from lightning_modules.callbacks.time_left import TimeLeft


def trainer(**settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "current_epoch": 0, "num_training_batches": 10, "max_epochs": 4, "max_steps": -1,
        "global_step": 0, "accumulate_grad_batches": 1, "val_check_batch": 10,
        "check_val_every_n_epoch": 1, "callbacks": [],
    }  # fmt: skip
    return SimpleNamespace(**defaults | settings)


def clock(batch: float = 2.0, validation: float | None = None) -> TimeLeft:
    left = TimeLeft()
    left.add_batch(batch)
    if validation is not None:
        left.add_validation(validation)
    return left


def test_batches_and_validations_that_are_left() -> None:
    assert clock(validation=7).seconds(trainer(), 5) == 35 * 2 + 4 * 7
    # After the last batch of the first epoch, its validation is still to come, or done.
    assert clock(validation=7).seconds(trainer(), 10) == 30 * 2 + 4 * 7
    assert clock(validation=7).seconds(trainer(), 10, validated=True) == 30 * 2 + 3 * 7
    last = trainer(current_epoch=3)
    assert clock(validation=7).seconds(last, 10, validated=True) == 0


@pytest.mark.parametrize(
    ("settings", "validations"),
    [
        ({"check_val_every_n_epoch": 2}, 2),
        ({"check_val_every_n_epoch": 3}, 1),
        ({"val_check_batch": 5}, 8),
        ({"val_check_batch": 15, "check_val_every_n_epoch": None}, 2),
        ({"val_check_batch": math.inf}, 0),
    ],
)
def test_how_often_is_validated(settings: dict[str, Any], validations: int) -> None:
    assert clock(2, 7).seconds(trainer(**settings), 1) == 39 * 2 + validations * 7


def test_limits() -> None:
    unvalidated = {"val_check_batch": math.inf}
    accumulating = trainer(max_steps=6, accumulate_grad_batches=2, **unvalidated)
    assert clock().seconds(accumulating, 0) == 12 * 2
    endless = trainer(max_epochs=-1)
    assert math.isnan(clock().seconds(endless, 5))
    timer = Timer(timedelta(seconds=30))
    for settings in ({"max_epochs": -1}, {}, unvalidated):
        timed = trainer(callbacks=[timer], **settings)
        assert clock().seconds(timed, 5) == pytest.approx(30, abs=1)
    hour = [Timer(timedelta(hours=1))]
    assert clock().seconds(trainer(callbacks=hour, **unvalidated), 5) == 70


def test_nothing_is_estimated_before_batches_and_validations_are_timed() -> None:
    untimed, validated = TimeLeft(), TimeLeft()
    validated.add_validation(7)
    hour = [Timer(timedelta(hours=1))]
    for left in (untimed, validated, clock()):
        assert math.isnan(left.seconds(trainer(), 5))
        assert math.isnan(left.seconds(trainer(callbacks=hour), 5)), "it may end earlier"
    assert clock().seconds(trainer(val_check_batch=math.inf), 5) == 35 * 2
    assert clock().seconds(trainer(current_epoch=3), 10, validated=True) == 0
