"""The scoring callback on unusual tracks, and against museval."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from datamodules.batches import Batch
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks import bss_eval
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.evaluation.baselines import score_mixture
from lightning_modules.evaluation.scores import TrackScores, score_track
from tests.helpers.tracks import STEMS, write_track

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="museval needs ffmpeg, which is not installed"
)


class Stub(SourceSeparator):
    """Estimates a quarter of the mixture for each source, and silence for ``silent`` ones."""

    tiny = {}  # noqa: RUF012

    def __init__(self, sources: list[str], silent: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(sources, **kwargs)
        self.gains = torch.tensor([0.0 if name in silent else 0.25 for name in sources])
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def forward(self, mixture: Tensor) -> Tensor:
        return mixture[:, None] * self.gains[:, None, None].to(mixture)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.parameter}


def validate(
    root: Path, out: Path, model: Stub | None = None, scorer: BSSEval | None = None
) -> dict[str, float]:
    model = model or Stub(list(STEMS), segment_seconds=0.5)
    data = MUSDBDataModule(
        str(root),
        segment_seconds=0.5,
        sample_rate=model.sample_rate,
        batch_size=1,
        num_workers=0,
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        callbacks=[scorer or BSSEval(processes=1)],
    )
    crops, tracks = trainer.validate(model, data, verbose=False)
    return {**crops, **tracks}


def silence(folder: Path, stem: str, start: float = 0.0) -> None:
    audio, rate = soundfile.read(folder / f"{stem}.wav", dtype="int16")
    audio[round(start * rate) :] = 0
    soundfile.write(folder / f"{stem}.wav", audio, rate)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("A - Trained", "Leaf - Summerghost")):
        write_track(tmp_path / "data" / "train" / name, seconds=2.5, seed=number)
    return tmp_path / "data"


@needs_ffmpeg
@pytest.mark.slow
@pytest.mark.complete_run
def test_scores_equal_those_of_museval(root: Path, tmp_path: Path) -> None:
    import museval

    metrics = validate(root, tmp_path / "out")
    folder = root / "train" / "Leaf - Summerghost"
    stems = np.stack([soundfile.read(folder / f"{stem}.wav")[0] for stem in STEMS])
    mixture = soundfile.read(folder / "mixture.wav")[0]
    sdr, isr, _, _ = museval.evaluate(stems, np.stack([mixture / 4] * 4), 44100, 44100)
    for number, stem in enumerate(STEMS):
        assert abs(metrics[f"val/sdr/{stem}"] - np.nanmedian(sdr[number])) < 1e-4
        assert abs(metrics[f"val/isr/{stem}"] - np.nanmedian(isr[number])) < 1e-4
    assert abs(metrics["val/sdr"] - np.mean([np.nanmedian(row) for row in sdr])) < 1e-4
    store = museval.MethodStore()
    # museval's stores read the files of a campaign's test subset only.
    (tmp_path / "campaign" / "us").mkdir(parents=True)
    shutil.copytree(tmp_path / "out/scores/estimate/val", tmp_path / "campaign/us/test")
    store.add_eval_dir(str(tmp_path / "campaign/us"))
    assert set(store.df["target"]) == set(STEMS)


@pytest.mark.slow
def test_silent_source_silent_estimate_and_silent_frames(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "train" / "Leaf - Summerghost"
    silence(folder, "bass")
    silence(folder, "vocals", start=1.0)
    (folder / "mixture.wav").unlink()
    model = Stub(list(STEMS), silent=("drums",), segment_seconds=0.5)
    metrics = validate(root, tmp_path / "out", model)
    assert np.isnan(metrics["val/sdr/bass"])
    assert np.isnan(metrics["val/sdr/drums"])
    assert metrics["val/usdr/drums"] == pytest.approx(0, abs=1e-3)
    assert np.isfinite(metrics["val/sdr/vocals"])
    assert np.isfinite(metrics["val/sdr"])
    assert metrics["val/skipped_frames"] == 2 + 2 + 1 + 1
    table = capsys.readouterr().out
    assert "bass: the reference is silent" in table
    assert "drums: the estimate is silent" in table


def test_models_of_all_rates_are_scored_at_the_rate_of_the_track(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References without an upper octave, as of resampled tracks, would be singular."""
    scored: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> TrackScores:
        scored.append(arguments)
        return score_track(*arguments)

    monkeypatch.setattr(bss_eval, "score_track", note)
    validate(root, tmp_path / "out", Stub(list(STEMS), segment_seconds=0.5, sample_rate=22050))
    references, estimates, rate = scored[0][1:4]
    assert rate == 44100
    expected = soundfile.read(root / "train/Leaf - Summerghost/vocals.wav", dtype="float32")[0]
    assert np.array_equal(references[0], expected.T)
    assert estimates.shape == references.shape
    spectrum = np.abs(np.fft.rfft(estimates[0, 0]))
    half = len(spectrum) // 2
    assert spectrum[half + half // 20 :].max() < 0.01 * spectrum[: half - half // 20].max()
    (scores,) = (tmp_path / "out/scores/estimate/val").glob("*.json")
    assert json.loads(scores.read_text())["sample_rate"] == 44100


@pytest.mark.slow
def test_track_shorter_than_a_frame(tmp_path: Path) -> None:
    write_track(tmp_path / "data/train/A - Trained", seconds=0.6)
    write_track(tmp_path / "data/train/Leaf - Summerghost", seconds=0.6, seed=1)
    metrics = validate(tmp_path / "data", tmp_path / "out")
    assert np.isfinite(metrics["val/sdr/vocals"])


@pytest.mark.slow
def test_baseline_is_computed_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []

    def counted(score: Callable[..., TrackScores]) -> Callable[..., TrackScores]:
        def count(*arguments: Any) -> TrackScores:
            scored.append(score.__name__)
            return score(*arguments)

        return count

    for work in (score_track, score_mixture):
        monkeypatch.setattr(bss_eval, work.__name__, counted(work))
    scorer = BSSEval(processes=1)
    first = validate(root, tmp_path / "out", scorer=scorer)
    assert validate(root, tmp_path / "out", scorer=scorer)["val/sdr"] == first["val/sdr"]
    assert scored == ["score_track", "score_mixture", "score_track"]
