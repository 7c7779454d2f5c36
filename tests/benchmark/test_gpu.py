"""The benchmark of all that needs a GPU: its parts, limits and tables, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.benchmark import gpu
from lightning_modules.benchmark.gpu import Part, parts, run_part
from lightning_modules.configuration.files import chain
from lightning_modules.tools.benchmark import build_parser, main


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_commands_of_all_parts_are_valid(device: str, tmp_path: Path) -> None:
    found = parts(device, tmp_path)
    assert len({part.name for part in found}) == len(found)
    for part in found:
        for words in part.commands:
            if words[0] == "tools.benchmark":
                options = build_parser().parse_args(words[1:])
                for name in getattr(options, "configs", ()):
                    assert chain(name)
            else:
                assert chain(words[words.index("--config") + 1])


@pytest.mark.slow
def test_steps_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_CPU_FAMILIES", (("fnn/small", "", 1, 0.3),))
    path = tmp_path / "report.json"
    arguments = ["gpu", "--device", "cpu", "--seconds", "300", "--json", str(path)]
    assert main([*arguments, "--only", "step"]) == 0
    report = json.loads(path.read_text())
    assert set(report["products"]) == {"float32", "bfloat16", "float16"}
    (step,) = report["parts"].values()
    assert step["fault"] is None
    assert step["reports"][0]["rows"]["fnn/small"]["examples_per_second"] > 0
    assert "| fnn/small | bf16-mixed" in capsys.readouterr().out


def test_last_values_of_a_training_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = (part for part in parts("cpu", tmp_path) if part.name == "fit auto")
    log = tmp_path / "auto/lightning_logs/version_0/metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("train/examples_per_second,train/data_wait,train/loss\n1,0.5,3\n2.5,,2\n")
    monkeypatch.setattr(gpu, "_run", lambda command, limit: None)
    result = run_part(part, 10.0, tmp_path)
    logged = {"train/examples_per_second": 2.5, "train/data_wait": 0.5}
    assert result["reports"] == [logged, logged]
    report = {
        "settings": {"device": "", "torch": "", "stemlab": ""},
        "products": {},
        "parts": {part.name: result},
    }
    assert "| resumed  | 2.5        | 50%" in gpu.table(report)


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    slow = Part("slow", 1.0, [["tools.benchmark", "scorer", "--seconds", "100"]])
    result = run_part(slow, 1.0, tmp_path)
    assert result["fault"] == "stopped after 1 s"
    assert run_part(slow, 0.2, tmp_path)["fault"] == "no time left"


@pytest.mark.slow
def test_faults_and_measured_steps_are_listed(tmp_path: Path) -> None:
    wrong = Part("step wrong", 1.0, [["tools.benchmark", "step", "--repeats", "-1"]])
    result = run_part(wrong, 60.0, tmp_path)
    assert "--repeats is -1" in result["fault"]
    row: dict[str, Any] = {
        "fault": None, "teraflops_per_second": 20.0, "gpu_peak_gb": 3.0, "examples_per_second": 7.0,
    }  # fmt: skip
    settings = {"precision": "bf16-mixed", "batch_size": 4, "segment_seconds": 8.0}
    report = {
        "settings": {"device": "H", "torch": "2", "stemlab": "1"},
        "products": {"bfloat16": 80e12, "float16": 1e12},
        "parts": {
            "step wrong": result,
            "step right": {"fault": None, "reports": [{"settings": settings, "rows": {"a": row}}]},
        },
    }
    shown = gpu.table(report)
    assert "| a       | bf16-mixed | 4 x 8 s | 7          | 3.0 GB     | 20      | 25%" in shown
    assert "- step wrong: " in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--seconds", "0"], "--seconds is 0"), (["--only", "stepp"], "there is no such part")],
)
def test_mistakes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--device", "cpu", *arguments]) == 2
    assert words in capsys.readouterr().err
