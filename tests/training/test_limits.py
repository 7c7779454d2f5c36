"""Runs neither grow in memory nor leave processes and shared memory behind."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.processes import kill_all, members, start, until
from tests.helpers.record import workers_of, write_config
from tests.helpers.tracks import STEMS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_a_long_run_does_not_grow(tmp_path: Path, musdb_root: Path) -> None:
    """600 steps and ten validations: caches fill in the first epochs only."""
    callbacks: list[dict[str, Any]] = [
        {"class_path": "tests.helpers.record.Memory"},
        {
            "class_path": "lightning_modules.callbacks.bss_eval.BSSEval",
            "init_args": {"processes": 1},
        },
        {"class_path": "lightning_modules.callbacks.throughput.Throughput"},
    ]
    config = write_config(
        tmp_path,
        musdb_root,
        *callbacks,
        num_workers=2,
        examples_per_epoch=120,
        batch_size=2,
        segment_seconds=0.1,
    )
    options = ["--run_dir=run", "--trainer.max_epochs=10", "--trainer.logger=CSVLogger"]
    process = start("lightning_modules.cli", "fit", *config, *options, folder=tmp_path)
    try:
        process.wait(400)
        assert process.returncode == 0, (tmp_path / "output").read_text()
    finally:
        kill_all(process)
    lines = (tmp_path / "run/memory.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [epoch["step"] for epoch in epochs] == list(range(60, 601, 60))
    early, late = epochs[3:6], epochs[7:]
    # The kernel may merge small pages into huge ones of 2 MiB at any time, in every process.
    for name, allowed in (
        ("bytes", 8 * 2**20),
        ("worker_bytes", 8 * 2**20),
        ("files", 2),
        ("threads", 1),
    ):
        first, last = (statistics.median(epoch[name] for epoch in part) for part in (early, late))
        assert last - first <= allowed, (name, epochs)


@pytest.mark.parametrize(
    ("number", "target"),
    [
        (signal.SIGINT, "group"),  # Ctrl-C in a terminal
        (signal.SIGKILL, "trainer"),
        (signal.SIGKILL, "worker"),
    ],
)
def test_stopped_and_killed_runs_leave_nothing_behind(
    tmp_path: Path, musdb_root: Path, number: signal.Signals, target: str
) -> None:
    before = set(os.listdir("/dev/shm"))
    config = write_config(tmp_path, musdb_root, num_workers=2, examples_per_epoch=1000000)
    process = start("lightning_modules.cli", "fit", *config, "--run_dir=run", folder=tmp_path)
    try:
        record = tmp_path / "run/record-0.jsonl"
        until(lambda: record.is_file() and len(record.read_bytes()) > 500, tmp_path, 120)
        if target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(workers_of(process.pid)[0] if target == "worker" else process.pid, number)
        process.wait(120)
        until(lambda: not members(process.pid), tmp_path, 30)
    finally:
        kill_all(process)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "torch" in name}
    output = (tmp_path / "output").read_text()
    if target == "group":
        assert process.returncode == 130, output
        assert "Traceback" not in output
        assert "Resume with: python -m lightning_modules.cli fit --config unet.yaml" in output
        assert output.rstrip().endswith("--ckpt_path last")
        assert load_separator(tmp_path / "run/checkpoints/last.ckpt").sources == list(STEMS)
    elif target == "trainer":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 2
        assert "--ckpt_path last" in output
        assert "a process that loads data" in output
