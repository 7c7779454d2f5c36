"""Differences between two runs are found to the bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.checkpoints.files import LAST
from lightning_modules.endurance import equality
from lightning_modules.endurance.equality import batches_lost, difference
from lightning_modules.endurance.markers import record_file
from lightning_modules.endurance.recorder import digest

STATE: dict[str, Any] = {
    "weights": {"a": torch.tensor([1.0, math.nan]), "scale": torch.tensor(0.0)},
    "averages": torch.ones(3, dtype=torch.bfloat16),
    "loops": [{"step": 3, "best": math.nan}, (True, "x")],
}


def test_equal_states_have_no_difference() -> None:
    again = {
        "weights": {"a": torch.tensor([1.0, math.nan]), "scale": torch.tensor(0.0)},
        "averages": torch.ones(3, dtype=torch.bfloat16),
        "loops": [{"step": 3, "best": math.nan}, (True, "x")],
    }
    assert difference(STATE, again) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weights": {**STATE["weights"], "scale": torch.tensor(-0.0)}}, "/weights/scale: other"),
        ({"weights": {**STATE["weights"], "scale": torch.zeros(1)}}, "/weights/scale: other"),
        ({"weights": {"a": STATE["weights"]["a"]}}, "/weights: keys"),
        ({"averages": torch.ones(3)}, "/averages: other"),
        ({"averages": 1.0}, "/averages: float, expected Tensor"),
        ({"loops": [{"step": 4, "best": math.nan}, (True, "x")]}, "/loops/0/step: 4, expected 3"),
        ({"loops": [{"step": 3, "best": 1.0}, (True, "x")]}, "/loops/0/best: 1.0, expected nan"),
        ({"loops": STATE["loops"][:1]}, "/loops: 1 entry, expected 2"),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], expected: str) -> None:
    found = difference({**STATE, **change}, STATE)
    assert found is not None
    assert found.startswith(expected)


def test_digest_depends_on_every_bit() -> None:
    tensors = [torch.tensor([1.0, 0.0]), torch.tensor(3)]
    assert digest(tensors) == digest([each.clone() for each in tensors])
    assert digest(tensors) != digest([torch.tensor([1.0, -0.0]), torch.tensor(3)])


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        ([["start", 0], ["batch", 1], ["batch", 2]], 0),
        ([["start", 0], ["batch", 1], ["batch", 2], ["batch", 3]], 1),
        # Killed after five batches, then resumed from the checkpoint of the second one.
        ([["start", 0], ["batch", 5], ["start", 2]], 0),
        ([["start", 0], ["batch", 5], ["start", 1], ["batch", 2], ["validation", 2]], 0),
    ],
)
def test_lost_batches_are_those_of_the_last_start(
    lines: list[list[Any]], lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = {"epoch_loop.batch_progress": {"total": {"processed": 2}}}
    contents = {tmp_path / "checkpoints" / LAST: {"loops": {"fit_loop": progress}}}
    monkeypatch.setattr(equality, "read_checkpoint", contents.__getitem__)
    record_file(tmp_path, 0).parent.mkdir()
    record_file(tmp_path, 0).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert batches_lost(tmp_path) == lost
