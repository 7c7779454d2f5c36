"""What a run may not do: grow, or leave processes and shared memory behind."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.processes import kill_all, members, start, until
from tests.helpers.record import workers_of
from tests.slurm.test_slurm import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def fit(folder: Path, root: Path, settings: dict[str, Any], *words: str) -> subprocess.Popen[bytes]:
    """Start a training of a small model with two loader workers."""
    tiny: dict[str, Any] = json.loads(json.dumps(TINY))
    for section, values in settings.items():
        tiny[section] = tiny[section] | values
    tiny["data"]["init_args"] |= {"root": str(root), "num_workers": 2}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    configs = ["--config", "unet.yaml", "--config", str(folder / "tiny.yaml"), "--run_dir", "run"]
    return start("lightning_modules.cli", "fit", *configs, *words, folder=folder)


def test_a_long_run_does_not_grow(tmp_path: Path, musdb_root: Path) -> None:
    """2,000 steps and ten validations: the first epochs fill caches, the later ones none."""
    callbacks = [
        *TINY["trainer"]["callbacks"],
        {"class_path": "tests.helpers.record.Memory"},
        {"class_path": "lightning_modules.callbacks.bss_eval.BSSEval"},
        {"class_path": "lightning_modules.callbacks.throughput.Throughput"},
    ]
    process = fit(
        tmp_path,
        musdb_root,
        {"trainer": {"max_epochs": 10, "callbacks": callbacks}},
        "--data.init_args.examples_per_epoch=400",
        "--data.init_args.batch_size=2",
        "--data.init_args.segment_seconds=0.1",
        "--trainer.logger=CSVLogger",
    )
    try:
        process.wait(400)
        assert process.returncode == 0, (tmp_path / "output").read_text()
    finally:
        kill_all(process)
    lines = (tmp_path / "run/memory.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [epoch["step"] for epoch in epochs] == list(range(200, 2001, 200))
    early, late = epochs[3:6], epochs[7:]
    # The kernel may join small pages into huge ones of 2 MiB at any time, in every process.
    for what, allowed in (
        ("bytes", 8 * 2**20),
        ("worker_bytes", 8 * 2**20),
        ("files", 2),
        ("threads", 1),
    ):
        first, last = (statistics.median(epoch[what] for epoch in part) for part in (early, late))
        assert last - first <= allowed, (what, epochs)


@pytest.mark.parametrize(
    ("number", "victim"),
    [
        (signal.SIGINT, "group"),
        (signal.SIGTERM, "trainer"),
        (signal.SIGKILL, "trainer"),
        (signal.SIGKILL, "worker"),
    ],
)
def test_nothing_is_left_behind(
    tmp_path: Path, musdb_root: Path, number: signal.Signals, victim: str
) -> None:
    before = set(os.listdir("/dev/shm"))
    process = fit(tmp_path, musdb_root, {}, "--data.init_args.examples_per_epoch=1000000")
    try:
        record = tmp_path / "run/record-0.jsonl"
        until(lambda: record.is_file() and len(record.read_bytes()) > 500, tmp_path, 120)
        if victim == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(workers_of(process.pid)[0] if victim == "worker" else process.pid, number)
        process.wait(120)
        until(lambda: not members(process.pid), tmp_path, 30)
    finally:
        kill_all(process)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "torch" in name}
    output = (tmp_path / "output").read_text()
    if victim == "worker":
        assert process.returncode == 1
        assert "a process that reads data died" in output
        assert "--ckpt_path last" in output
    else:
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
        assert process.returncode == expected[number], output
