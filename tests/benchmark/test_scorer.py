"""The benchmark of BSS Eval: its table and results, its signals, and mistakes."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lightning_modules.benchmark import scorer
from lightning_modules.tools.benchmark import main
from tests.helpers.tracks import write_track


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three short mono tracks at a low rate, the second of them at another."""
    for number, rate in enumerate((4000, 8000, 4000)):
        write_track(tmp_path / "data/train" / f"{number}", 1.5, rate, channels=1, seed=number)
    (tmp_path / "data/test").mkdir()
    return tmp_path / "data"


@pytest.mark.slow
def test_table_agrees_with_the_results(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Starting new processes would take most of a minute.
    monkeypatch.setattr(scorer, "ScoringPool", ThreadPoolExecutor)
    path = tmp_path / "report.json"
    options = ["--root", str(root), "--repeats", "2", "--json", str(path)]
    assert main(["scorer", "--seconds", "1.9", *options]) == 0
    report = json.loads(path.read_text())
    (row,) = report["rows"]
    assert row["audio_seconds"] == 1.9
    assert row["ratio"] == row["museval_seconds"] / row["seconds"] > 1
    assert row["museval_extra_mib"] > 0
    assert row["difference_db"] < 1e-5
    assert 0 < row["museval_floor_db"] < 1e-5
    assert row["equal"]
    assert report["settings"] == {"data": str(root), "repeats": 2, "threads": 1}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:5] == [
        "1.9 s",
        f"{row['museval_seconds']:.1f} s",
        f"{row['seconds']:.2f} s",
        f"{row['ratio']:.0f} x",
    ]
    assert "equal" in cells
    assert len({line.count("|") for line in lines}) == 1


def test_signals_have_one_rate_and_all_sources(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "signals.npy"
    assert scorer.write_signals(path, 1.9, root) == 4000
    references, estimates = np.load(path)
    assert references.shape == (4, 7600, 1)
    assert references.any(axis=(1, 2)).all()
    assert np.array_equal(estimates * 2**15, np.round(estimates * 2**15))
    # The masks of an ideal ratio mask sum to 1.
    np.testing.assert_allclose(estimates.sum(axis=0), references.sum(axis=0), atol=1e-3)


def test_scores_are_in_the_order_of_the_file(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "signals.npy"
    generator = np.random.default_rng(0)
    references = generator.standard_normal((3, 3000, 1))
    np.save(path, np.stack([references, references + generator.standard_normal(references.shape)]))
    plain = scorer.measure(scorer.OURS, path, 1000, 1, "none")
    assert plain.scores.shape == (4, 3, 3)
    assert plain.seconds > 0
    for change in ("scaled", "reversed"):
        found = scorer.measure(scorer.OURS, path, 1000, 1, change).scores
        assert 0 <= scorer.max_difference(plain.scores, found) < 1e-8
        np.testing.assert_allclose(found, plain.scores, rtol=1e-8)


def test_max_difference() -> None:
    scores = np.array([1.0, np.nan, np.inf, -3])
    assert scorer.max_difference(scores, scores) == 0
    assert scorer.max_difference(scores, scores + 0.5) == 0.5
    assert scorer.max_difference(scores, np.array([1.0, np.nan, 250, -3])) == 0
    assert scorer.max_difference(scores, np.array([1.0, 2.0, np.inf, -3])) == math.inf


def test_table_marks_differences() -> None:
    row = dict.fromkeys(
        (
            "audio_seconds", "museval_seconds", "seconds", "ratio", "museval_extra_mib",
            "extra_mib", "difference_db", "museval_floor_db",
        ),
        2.0,
    )  # fmt: skip
    report = {
        "settings": {"data": "x", "repeats": 1},
        "packages": {"museval": "1", "numpy": "2"},
        "rows": [row | {"equal": False}],
    }
    assert "DIFFERS" in scorer.table(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds has 0: give lengths above 0"),
        (["--seconds", "3", "nan"], "--seconds has nan"),
        (["--seconds", "100"], "no 100 s of music with all of vocals, drums, bass, other"),
        (["--repeats", "0"], "--repeats is 0: give 1 or more"),
        (["--json", "."], "--json .: is a folder"),
    ],
)
def test_mistakes(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scorer", "--root", str(root), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
