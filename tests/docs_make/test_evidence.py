"""The script that measures learning curves for the docs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import evidence
import learning_curve
from datamodules.musdb import MUSDBDataModule
from learning_curve import Points
from lightning_modules.callbacks.ema import EMA
from open_unmix_recipe import OpenUnmixRecipe
from table_pages import DOCS, with_table
from tests.helpers.separators import Gains
from tests.helpers.tracks import STEMS, write_track


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for seed, track in enumerate(("train/A - 1", "train/B - 2", "test/C - 3")):
        write_track(tmp_path / "songs" / track, seconds=5, seed=seed)
    return tmp_path / "songs"


def page_in(folder: Path) -> Path:
    """Page with markers."""
    page = folder / "docs/evidence.md"
    page.parent.mkdir()
    page.write_text(f"<!-- table: made by {evidence.SCRIPT} -->\n<!-- end -->\n")
    return page


@pytest.mark.slow
def test_curves_of_a_config_and_of_the_package(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks of a few weights, which take little time.
    monkeypatch.setattr(OpenUnmixRecipe, "hidden_size", 8)
    monkeypatch.setattr(OpenUnmixRecipe, "seconds", 0.5)
    small = "{hidden_size: 8, layers: 1, n_fft: 512, hop_length: 256}"
    monkeypatch.setattr(
        evidence,
        "words_of",
        lambda _: [
            "--config", "open_unmix/small.yaml", f"--model.init_args={small}",
            "--data.init_args.segment_seconds=0.5",
        ],
    )  # fmt: skip
    page = page_in(tmp_path)
    words = ["--songs", str(songs), "--docs", str(page.parent), "--minutes", "1e-9", "2e-9"]
    names = [evidence.PACKAGE, "open_unmix", evidence.BASELINES]
    assert evidence.main([*names, *words]) == 0
    rows = json.loads(page.with_name("evidence.json").read_text())
    assert sorted(rows) == sorted(names)
    for name in names[:2]:
        (point,) = rows[name]["points"]  # both were due at the first step
        assert point["steps"] == 1
        assert point["minutes"] == 2e-9
        assert list(point["usdr"]) == list(STEMS)
        assert np.isfinite(list(point["usdr"].values())).all()
    gains = rows[evidence.BASELINES]["baselines"]
    for source in STEMS:
        assert gains["mixture"][source] < gains["best gain"][source]
        assert gains["mixture/4"][source] <= gains["best gain"][source]
    assert "| `open_unmix` " in page.read_text()
    assert (page.parent / "pictures/evidence.png").stat().st_size > 10_000


def test_points_are_taken_when_they_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.process_time", lambda: now)

    def score() -> dict[str, float]:
        nonlocal now
        now += 1000  # seconds that do not count
        return {"vocals": now}

    points = Points([2, 1], tmp_path / "points.json")
    for step in range(1, 5):
        assert not points.complete
        now += 30
        points.after_step(step, score)
    assert points.complete
    taken = json.loads((tmp_path / "points.json").read_text())
    assert [(point["minutes"], point["steps"]) for point in taken] == [(1, 2), (2, 4)]


def test_the_average_of_the_weights_is_scored_and_the_weights_are_kept(songs: Path) -> None:
    data = MUSDBDataModule(root=str(songs), validation_tracks=["A - 1"])
    data.setup("test")
    model, ema = Gains(list(STEMS), gain=0.25), EMA()
    trainer: Any = SimpleNamespace(callbacks=[], datamodule=data)
    average = learning_curve._score(trainer, model)
    trainer.callbacks.append(ema)
    ema.setup(trainer, model, "fit")  # the average is that of the gains above
    model.gains.data.fill_(-1)
    assert learning_curve._score(trainer, model) == average
    assert bool((model.gains == -1).all())


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = ["--docs", str(page_in(tmp_path).parent)]
    assert evidence.main(["mask_unet", *docs]) == 2
    assert "give --songs, a folder with train and test" in capsys.readouterr().err
    assert evidence.main(["mask_unet", "--songs", str(tmp_path), *docs]) == 2
    assert "has no folder train; --songs needs train and test" in capsys.readouterr().err
    assert evidence.main(["mask_unett", "--songs", str(tmp_path), *docs]) == 2
    assert "did you mean mask_unet" in capsys.readouterr().err


def test_page_shows_the_stored_results() -> None:
    rows: dict[str, Any] = json.loads((DOCS / "evidence.json").read_text())
    page = DOCS / "evidence.md"
    assert with_table(page, evidence.SCRIPT, evidence.table(rows)) == page.read_text()
