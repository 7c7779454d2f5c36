"""Facts of architectures, and the table that they stand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

import architectures
from datamodules.batches import Batch
from lightning_modules.base.flops import forward_flops
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.build import build_model
from model_cost import latency_seconds, measure_model, real_time_factor


class Ahead(SourceSeparator):
    """Hears so many samples behind each one, or a recurrent layer that runs both ways."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, samples: int, recurrent: bool = False) -> None:
        super().__init__(["all"], segment_seconds=0.02, audio_channels=1)
        self.samples = samples
        self.convolution = nn.Conv1d(1, 1, 1 + samples)
        if recurrent:
            self.layer = nn.LSTM(1, 1, bidirectional=True)

    def forward(self, mixture: Tensor) -> Tensor:
        behind = nn.functional.pad(mixture, (0, self.samples))
        estimate: Tensor = self.convolution(behind)
        return estimate[:, None]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self(batch.mixture).sum()}


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_latency_is_what_a_model_hears_behind_a_sample(samples: int) -> None:
    assert latency_seconds(Ahead(samples).eval()) == pytest.approx(samples / 44100)


def test_latency_may_be_the_whole_chunk() -> None:
    assert latency_seconds(Ahead(1, recurrent=True).eval()) is None
    assert latency_seconds(Ahead(880).eval()) is None


def test_facts_of_a_config() -> None:
    facts = measure_model("unet/small")
    model = build_model("unet/small").model
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.multiply_adds_per_second == pytest.approx(forward_flops(model) * 44100 / 2)
    assert 0 < real_time_factor("unet/small") < 10


def pages(folder: Path) -> tuple[Path, Path]:
    """Page and README with places for tables."""
    docs = folder / "docs"
    docs.mkdir()
    found = docs / "architectures.md", folder / "README.md"
    for page in found:
        mark = "<!-- table: made by docs/make/architectures.py -->"
        page.write_text(f"# Head\n\n{mark}\nold\n<!-- end -->\n\nFoot\n")
    return found


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_the_tables_stand_between_their_marks(tmp_path: Path) -> None:
    page, readme = pages(tmp_path)
    docs = ["--docs", str(page.parent)]
    scored = {"training_seconds": 90, "sdr": 2.5, "mixture_sdr": -5, "command": "fit --config x"}
    kept = {"unet/small": {"paper": "", "latency_seconds": 0.1, **scored}}
    (page.parent / "architectures.json").write_text(json.dumps(kept))
    assert architectures.main(["unet/small", "--no-training", *docs]) == 0
    text = page.read_text()
    for written in (text, readme.read_text()):
        assert written.startswith("# Head\n\n<!--")
        assert written.endswith("-->\n\nFoot\n")
        assert "old" not in written
    (row,) = [line for line in text.splitlines() if line.startswith("| `unet/small`")]
    shown = cells(row)
    assert shown[1] == "On top of unet.yaml: small enough to learn something on a CPU in minutes"
    assert shown[2] == f"{measure_model('unet/small').parameters:,}"
    assert shown[5:] == ["chunk", "1.5 min", "2.50 dB", "-5.00 dB", "`fit --config x`"]
    assert architectures.main(docs) == 0
    assert page.read_text() == text


def test_the_readme_has_the_best_known_from_the_highest_score_on() -> None:
    figures = {"training_seconds": 90.0, "mixture_sdr": -5.0}
    rows: dict[str, dict[str, Any]] = {
        "unet": {**figures, "sdr": 2.5},
        "nmf": {**figures, "sdr": 3.123, "training_seconds": 300.0},
        "unet/small": {**figures, "sdr": 9.0},
        "roma": {"paper": "not trained yet"},
    }
    heading, _, *lines = architectures.ranking(rows)
    assert [cells(line) for line in (heading, *lines)] == [
        ["config", "trained for", "SDR"],
        ["[`nmf`](configs/nmf.yaml)", "5 min", "3.12 dB"],
        ["[`unet`](configs/unet.yaml)", "2 min", "2.50 dB"],
        ["the mixture as estimate", "", "-5.00 dB"],
    ]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, _ = pages(tmp_path)
    docs = ["--docs", str(page.parent)]
    assert architectures.main(["nothing", *docs]) == 2
    assert "config 'nothing' does not exist" in capsys.readouterr().err
    page.write_text("no marks")
    assert architectures.main(docs) == 2
    said = capsys.readouterr().err
    assert str(page) in said
    assert "put them back" in said


TINY = """# Nobody 2026
model:
  class_path: lightning_modules.architectures.nmf.NMF
  init_args: {{rank: 2, iterations: 2, n_fft: 512, hop_length: 256}}
data:
  init_args: {{root: {root}, examples_per_epoch: 8, batch_size: 4, segment_seconds: 0.5, {more}}}
trainer: {{max_epochs: 1}}
"""


@pytest.mark.slow
def test_a_config_is_trained_and_scored(musdb_root: Path, tmp_path: Path) -> None:
    page, _ = pages(tmp_path)
    figures = page.with_name("architectures.json")
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY.format(root=musdb_root, more="num_workers: 0"))
    arguments = [str(config), "--docs", str(page.parent)]
    assert architectures.main(arguments) == 0
    (row,) = json.loads(figures.read_text()).values()
    assert row["paper"] == "Nobody 2026"
    assert row["sdr"] > row["mixture_sdr"]
    assert row["training_seconds"] > 0
    assert row["command"] == f"fit --config {config}"
    kept = page.read_text()

    config.write_text(TINY.format(root=musdb_root, more="validation_tracks: [nobody]"))
    assert architectures.main(arguments) == 1
    assert page.read_text() == kept
