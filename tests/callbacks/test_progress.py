"""The progress bar in files and pipes."""

from __future__ import annotations

import pytest

from lightning_modules.callbacks.progress import Progress


@pytest.mark.parametrize("batches", [1, 7, 60, 10_007, 1_000_000])
def test_ten_to_forty_updates_of_an_epoch_in_a_file(batches: int) -> None:
    bar = Progress()
    bar.in_terminal = False
    updates = [batch for batch in range(1, batches + 1) if bar.is_due(batch, batches)]
    assert min(batches, 10) <= len(updates) <= 40
    assert updates[-1] == batches


def test_every_batch_in_a_terminal_and_unknown_lengths() -> None:
    bar = Progress()
    bar.in_terminal = True
    assert bar.is_due(1, 1000)
    bar.in_terminal = False
    assert [bar.is_due(batch, float("inf")) for batch in (1, 100, 150, 200)] == [
        *(False, True, False, True),
    ]
