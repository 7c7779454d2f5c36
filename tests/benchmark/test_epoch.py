"""The benchmark of scoring during training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batches import TrackBatch
from lightning_modules.benchmark import epoch
from lightning_modules.tools.benchmark import main
from tests.helpers.tracks import write_track


@pytest.mark.slow
def test_each_way_of_scoring_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, track in enumerate(("train/A - 1", "train/Actions - One Minute Smile")):
        write_track(tmp_path / track, seconds=2, sample_rate=8000, seed=seed)
    path, threads = tmp_path / "report.json", torch.get_num_threads()
    (tmp_path / "mine.yaml").write_text(
        "model:\n"
        "  class_path: lightning_modules.architectures.unet.UNet\n"
        "  init_args: {channels: [2], n_fft: 256, hop_length: 128}\n"
        "data: {init_args: {sample_rate: 8000, segment_seconds: 0.25, batch_size: 2}}\n"
    )
    arguments = ["--config", str(tmp_path / "mine.yaml"), "--root", str(tmp_path)]
    arguments += ["--epochs", "3", "--examples", "4", "--threads", "1"]
    assert main(["epoch", *arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    rows = report["rows"]
    assert list(rows) == ["none", "blocking", "background"]
    assert rows["none"]["waited_seconds"] == 0
    assert 0 < rows["blocking"]["waited_seconds"] < rows["blocking"]["epoch_seconds"]
    assert rows["background"]["waited_seconds"] > 0
    assert rows["background"]["waited_at_end_seconds"] > 0
    assert report["settings"]["tracks"] == 1
    assert report["settings"]["audio_seconds"] == pytest.approx(2)
    assert report["settings"]["threads"] == 1
    assert report["settings"]["examples"] == 4
    assert report["settings"]["segment_seconds"] == pytest.approx(0.25)
    assert torch.get_num_threads() == threads
    table = capsys.readouterr().out
    for name in ("without scoring", "`blocking: true`", "`blocking: false`"):
        assert name in table
    assert "Validation" not in table


def test_museval_scores_the_same_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    class Engine:
        @staticmethod
        def bss_eval(references: Any, estimates: Any, **options: int) -> None:
            seen.append((references, estimates, options))

    monkeypatch.setitem(sys.modules, "museval", Engine)
    monkeypatch.setitem(sys.modules, "museval.metrics", Engine)
    targets, estimates = torch.rand(4, 2, 10), torch.rand(4, 2, 10)
    track = TrackBatch("a", targets.sum(0), targets, 5)
    assert epoch.museval_seconds([(track, estimates)] * 2) >= 0
    assert len(seen) == 2
    references, others, options = seen[0]
    np.testing.assert_array_equal(references, targets.double().numpy().transpose(0, 2, 1))
    np.testing.assert_array_equal(others, estimates.double().numpy().transpose(0, 2, 1))
    assert options == {"window": 5, "hop": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "unett"], "did you mean unet?"),
        (["--epochs", "2"], "--epochs is 2: give 3 or more"),
        (["--examples", "0"], "--examples is 0: give 1 or more"),
        (["--threads", "-1"], "--threads is -1: give 1 or more"),
        (["--museval"], "--museval: museval cannot be imported"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "museval", None)
    monkeypatch.delitem(sys.modules, "museval.metrics", raising=False)
    assert main(["epoch", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_table_with_museval() -> None:
    row = {"epoch_seconds": 4.0, "waited_seconds": 1.0, "waited_at_end_seconds": 2.5}
    rows = {"none": {"epoch_seconds": 2.0, "waited_seconds": 0.0}}
    rows |= {"blocking": row, "background": row}
    rows["museval"] = {"epoch_seconds": 20.0, "waited_seconds": 18.0}
    settings = {
        "config": "mine.yaml",
        "data": "songs",
        "examples": 8,
        "segment_seconds": 2.0,
        "threads": 1,
        "cores": 2,
        "load": 0.25,
        "device": "cpu",
        "tracks": 1,
        "audio_seconds": 30.0,
    }
    table = epoch.table({"settings": settings, "rows": rows})
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "| scored by museval | 20.0 s | 10.00 x | 18.0 s | 90% |" in lines
    assert "| without scoring | 2.0 s | 1.00 x | 0.0 s | 0% |" in lines
    assert lines[-1].endswith("waits for the last scores: 2.5 s.")
