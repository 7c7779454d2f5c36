"""Model cards of exported separators."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from lightning_modules.base.description import CARD, CONFIG, WEIGHTS
from lightning_modules.interop.model_card import (
    TRAINING,
    Training,
    find_training,
    papers,
    write_card,
)
from lightning_modules.tools import export
from lightning_modules.version import version
from tests.helpers.checkpoints import model, save
from tests.helpers.comparison import track, write_run
from tests.helpers.configs import ROOTS, class_of

SOURCES = ("vocals", "accompaniment")
LEVELS = {f"song {number}": float(number) for number in range(3)}


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """Best checkpoint of a run with test scores."""
    run = tmp_path / "runs/first"
    write_run(run, LEVELS, seed=7, channels=[2])
    (run / "checkpoints").mkdir()
    small = model(channels=[2], n_fft=256, hop_length=128, segment_seconds=0.02)
    checkpoint = save(small, run / "checkpoints/best.ckpt")
    os.utime(checkpoint, (0, 0))
    return checkpoint


def metadata(card: str) -> ModelCardData:
    """Metadata as the Hub's package reads it."""
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


@pytest.mark.slow
def test_exported_card_has_the_scores_and_settings_of_the_run(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "folder"
    words = [str(best), "-o", str(output), "--license", "cc-by-4.0", "--dataset", "MUSDB18-HQ"]
    assert export.main(words) == 0
    assert "license cc-by-4.0; scores of 3 test tracks" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [CARD, CONFIG, WEIGHTS, TRAINING]
    )
    text = (output / CARD).read_text()
    data = metadata(text)
    assert (data.license, data.library_name) == ("cc-by-4.0", "stemlab")
    assert data.eval_results is not None
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    # The median of three tracks whose medians are the level plus the number of the source.
    assert found == {
        "SDR of mean, dB": 2.5,
        "SDR of vocals, dB": 1.0,
        "SDR of drums, dB": 2.0,
        "SDR of bass, dB": 3.0,
        "SDR of other, dB": 4.0,
    }
    assert {result.dataset_name for result in data.eval_results} == {"MUSDB18-HQ"}
    for said in (
        "| vocals | 1.00 | 6.00 | 11.00 | 16.00 | 0.00 | -2.00 ",
        "on 3 test tracks of MUSDB18-HQ; BSS Eval v4: median over tracks of the median over 1 s",
        "44,100 Hz, stereo",
        "- seed: 7",
        "- epochs: 4",
        'Oh, Kim and Yun 2018, "Spectrogram-channels u-net: a source separation model',
        f"Exported by Stemlab {version()}.",
        "stemlab separate song.mp3 --model USER/NAME",
        "vocals, accompaniment = separator.separate(",
    ):
        assert said in text
    settings = yaml.safe_load((output / TRAINING).read_text())
    assert settings["data"]["init_args"]["root"] == "first", "only the end of the path"
    assert "logger" not in settings["trainer"]
    assert str(tmp_path) not in text + (output / TRAINING).read_text()


def test_scores_of_another_checkpoint_are_not_shown(best: Path, tmp_path: Path) -> None:
    assert len(find_training(best).scores) == len(find_training(best).mixture) == 3
    last = save(model(), best.with_name("last.ckpt"))
    assert "another one" in find_training(last).no_scores
    assert len(find_training(last, best.parents[1] / "scores/estimate/test").scores) == 3
    os.utime(best)
    os.utime(best.parents[1] / "scores/estimate/test/song 0.json", (0, 0))
    assert "continued after" in find_training(best).no_scores
    for file in (best.parents[1] / "scores/estimate/test").iterdir():
        file.unlink()
    assert "was not run" in find_training(best).no_scores
    alone = save(model(), tmp_path / "best.ckpt")
    assert find_training(alone) == Training(no_scores="no run of this checkpoint was found")


def test_card_without_a_run(tmp_path: Path) -> None:
    write_card(model(), tmp_path, Training(no_scores="`test` was not run"))
    text = (tmp_path / CARD).read_text()
    assert "None: `test` was not run." in text
    assert "Data: unknown." in text
    assert metadata(text).license == "unknown"
    assert not (tmp_path / TRAINING).exists()


def test_missing_scores_are_left_out(tmp_path: Path) -> None:
    scores = track("song", 1.0, SOURCES)
    scores.frames["vocals"]["SDR"][:] = np.nan
    write_card(model(), tmp_path, Training(scores=[scores]))
    text = (tmp_path / CARD).read_text()
    assert "| vocals        | -    | " in text
    assert ".nan" not in text
    assert "SDR of vocals" not in text
    assert "SDR of accompaniment" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--license", "MIT License"], "--license is 'MIT License'"),
        (["--scores", "gone"], "--scores gone: a folder with score files was expected"),
    ],
)
def test_wrong_options(
    words: list[str], said: str, best: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(best), "-o", "unused", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("unused").exists()


@pytest.mark.parametrize("name", ROOTS)
def test_papers_of_an_architecture(name: str) -> None:
    """Authors and title, as the documentation has them."""
    found = papers(class_of(name))
    assert found
    for paper in found:
        assert paper.count('"') == 2
        assert paper[0].isupper()
