"""Benchmarks of steps, ranks and separation: candidates, results, tables and mistakes."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import DataError
from datamodules.markdown import markdown
from lightning_modules.benchmark import networks, timing
from lightning_modules.benchmark.networks import (
    ConfiguredModel,
    DemucsPackage,
    HTDemucsPackage,
    MDX23CPackage,
    OpenUnmixPackage,
    RoFormerPackage,
    SCNetPackage,
)
from lightning_modules.benchmark.step import training_step
from lightning_modules.layers import images
from lightning_modules.runtime.process_pool import available_cores
from lightning_modules.tools.benchmark import main

# Packages with another name than their networks.
MODULES = {
    "htdemucs": "demucs",
    **dict.fromkeys(("bs_roformer", "mel_band_roformer", "scnet", "mdx23c"), "msst"),
}
TINY_AUDIO = {"chunk_size": 64 * 31, "n_fft": 256, "hop_length": 64, "dim_f": 128}
SHORT = ["--repeats", "1", "--device", "cpu"]
STEP = ["step", "--batch-size", "1", "--segment-seconds", "0.3", *SHORT]


def report_of(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "report.json"
    assert main([*arguments, "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_a_training_step_changes_the_weights() -> None:
    model = ConfiguredModel("unet/small", ["--data.init_args.segment_seconds=0.3"], "cpu")
    before = [p.detach().clone() for p in model.network.parameters()]
    step = training_step(model, 2, 13230, "bf16-mixed", "cpu")
    step()
    assert model.network.training
    moved = [not torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True)]
    assert any(moved)
    assert all(p.isfinite().all() for p in model.network.parameters())


@pytest.mark.slow
def test_step_reports_rates_and_packages_that_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for absent in ("openunmix", "demucs"):
        for module in [name for name in sys.modules if name.startswith(f"{absent}.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, absent, None)
    report = report_of(tmp_path, *STEP)
    rows = report["rows"]
    assert list(rows) == ["unet/small", "openunmix (package)", "demucs (package)"]
    ours = rows["unet/small"]
    assert ours["fault"] is None
    assert ours["examples_per_second"] == pytest.approx(1 / ours["seconds"])
    assert ours["audio_seconds_per_second"] == pytest.approx(0.3 / ours["seconds"], rel=1e-4)
    model = ConfiguredModel("unet/small", ["--data.init_args.segment_seconds=0.3"], "cpu")
    assert ours["parameters"] == sum(p.numel() for p in model.network.parameters())
    flops = 3 * model.flops * 13230
    assert ours["teraflops_per_second"] == pytest.approx(flops / ours["seconds"] / 1e12)
    assert "not installed: pip install 'demucs'" in rows["demucs (package)"]["fault"]
    assert report["settings"]["batch_size"] == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"| {ours['parameters']:,} |" in shown
    assert "not measured: openunmix is not installed" in shown


@pytest.mark.slow
def test_step_also_measures_other_settings_and_memory_layouts(tmp_path: Path) -> None:
    also = ["--also", "model.init_args.channels=[2,3]"]
    configs = [STEP[0], "unet/small", "nmf", *STEP[1:]]
    rows = report_of(tmp_path, *configs, "--peers", *also, "--channels-first")["rows"]
    usual, _, fewer, mistaken, first, _ = rows
    assert [usual, first] == ["unet/small", "unet/small, channels first"]
    assert rows[fewer]["parameters"] < rows[usual]["parameters"] == rows[first]["parameters"]
    assert "'channels' is not" in rows[mistaken]["fault"]


@pytest.mark.parametrize("first", [False, True])
def test_memory_layout_of_images(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    wanted = torch.contiguous_format if first else torch.channels_last
    monkeypatch.setattr(images, "memory_format", wanted)
    model = ConfiguredModel("mask_unet/small", [], "cpu").model
    kernels = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[:2]) > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=wanted) for kernel in kernels)
    assert images.up_to_multiple(torch.rand(2, 3, 5, 7), 4).is_contiguous(memory_format=wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "make"),
    [
        ("openunmix", partial(OpenUnmixPackage, hidden_size=4)),
        ("demucs", partial(DemucsPackage, channels=4)),
        ("htdemucs", partial(HTDemucsPackage, channels=8, features=16)),
        ("bs_roformer", partial(RoFormerPackage, "bs_roformer", features=8, chunk_seconds=1)),
        (
            "mel_band_roformer",
            partial(RoFormerPackage, "mel_band_roformer", features=8, chunk_seconds=1),
        ),
        ("scnet", partial(SCNetPackage, dims=[4, 8, 8], nfft=512, hop_size=128, win_size=512)),
        (
            "mdx23c",
            partial(MDX23CPackage, audio=TINY_AUDIO, num_channels=4, growth=2, num_scales=2),
        ),
    ],
)
def test_packages_train_and_separate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    peer: str,
    make: Callable[[str], networks.Candidate],
) -> None:
    importlib.import_module(
        MODULES.get(peer, peer)
    )  # what it prints at its first import would disturb pytest
    monkeypatch.setitem(networks.PEERS, peer, make)
    step = report_of(tmp_path, *STEP, "--batch-size", "2", "--peers", peer)
    row = step["rows"][f"{peer} (package)"]
    assert row["fault"] is None
    assert row["parameters"] > 1000
    arguments = ["--track-seconds", "1", "--peers", peer, *SHORT]
    row = report_of(tmp_path, "separation", *arguments)["rows"][f"{peer} (package)"]
    assert row["fault"] is None
    assert row["times_real_time"] == pytest.approx(1 / row["seconds"])


def test_separation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(tmp_path, "separation", "--track-seconds", "2", "--peers", *SHORT)
    (row,) = report["rows"].values()
    assert row["times_real_time"] == pytest.approx(2 / row["seconds"])
    assert f"{row['times_real_time']:.3g}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(available_cores() < 2, reason="two ranks need two cores")
def test_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--batch-size", "1", "--segment-seconds", "0.3", "--ranks", "1", "2"]
    report = report_of(tmp_path, "ranks", *size, *SHORT)
    one, two = report["rows"]
    assert (one["ranks"], one["efficiency"]) == (1, 1.0)
    assert two["efficiency"] == pytest.approx(
        two["examples_per_second"] / (2 * one["examples_per_second"])
    )
    model = ConfiguredModel("unet/small", [], "cpu").network
    assert two["gradient_bytes"] == 4 * sum(p.numel() for p in model.parameters())
    assert two["all_reduce_seconds"] > 0
    assert f"| {two['efficiency']:.0%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*STEP, "--repeats", "-1"], "--repeats is -1"),
        ([*STEP, "--batch-size", "0"], "--batch-size is 0"),
        (["separation", "unet_smal"], "did you mean unet/small"),
    ],
)
def test_mistakes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_timing_leaves_out_the_first_round_and_candidates_that_fail() -> None:
    calls: list[str] = []

    def failing() -> object:
        calls.append("failing")
        raise RuntimeError("no\n  such thing")

    def unprepared() -> Any:
        raise DataError("is not installed")

    measured = timing.time_interleaved(
        {"good": lambda: lambda: calls.append("good"), "bad": lambda: failing, "no": unprepared},
        2,
        "cpu",
    )
    assert calls == ["good", "failing", "good", "good"]
    assert len(measured["good"].seconds) == 2
    assert measured["good"].median is not None
    assert (measured["bad"].fault, measured["bad"].median) == ("no such thing", None)
    assert measured["no"].fault == "is not installed"
    assert not math.isnan(timing.timed(lambda: None, "cpu")[0])


def test_columns_are_aligned() -> None:
    lines = markdown([["a", "bb", ""], ["ccc", "d", ""]])
    assert lines == ["| a   | bb | |", "| --- | -- | - |", "| ccc | d  | |"]
