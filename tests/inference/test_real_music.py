"""Real music through all steps: reading, training, separation, scores, against museval."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import museval
import numpy as np
import pytest
import stempeg
import torch

from lightning_modules import cli
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.evaluation.score_files import read_scores
from tests.helpers.command_line import CSV, TINY

ORDER = {"vocals": 4, "drums": 1, "bass": 2, "other": 3}  # streams of a .stem.mp4


@pytest.fixture
def stem_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of .stem.mp4 files from stempeg's example excerpt of MUSDB18."""
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "musdb18"
    for name in ("train/A - One", "train/B - Two", "test/C - Three"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(stempeg.example_stem_path(), root / f"{name}.stem.mp4")
    return root


@pytest.mark.slow
@pytest.mark.complete_run
def test_scores_of_a_musdb18_excerpt_agree_with_museval(stem_root: Path) -> None:
    arguments = ["--config", "unet.yaml", *TINY, *CSV, f"--data.init_args.root={stem_root}"]
    assert cli.main(["fit", *arguments, "--run_dir", "run"]) == 0
    assert cli.main(["test", *arguments, "--run_dir", "run"]) == 0

    # museval on stempeg's own decoding of the file.
    audio, rate = stempeg.read_stems(stempeg.example_stem_path(), dtype=np.float32)
    model = load_separator("run/checkpoints/best.ckpt")
    estimates = model.separate(torch.from_numpy(np.ascontiguousarray(audio[0].T))).numpy()
    references = np.stack([audio[stream] for stream in ORDER.values()])
    theirs = museval.evaluate(references, estimates.transpose(0, 2, 1), rate, rate)
    ours = read_scores("run/scores/estimate/test/C - Three.json")
    for number, source in enumerate(ORDER):
        for metric, expected in zip(("SDR", "ISR", "SIR", "SAR"), theirs, strict=True):
            found: Any = ours.frames[source][metric]
            finite = np.isfinite(expected[number])
            # Score files have five decimals; the SIR of a decoded AAC file varies by hundredths.
            tolerance = 0.1 if metric == "SIR" else 2e-3
            assert np.allclose(found[finite], expected[number][finite], atol=tolerance), source
            assert np.array_equal(np.isnan(found), ~finite)


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_training_and_separation_of_real_songs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FLAC songs, one of them with a silent bass."""
    from lightning_modules.tools import separate

    monkeypatch.chdir(tmp_path)
    root = Path(os.environ["STEMLAB_TEST_DATA"]) / "music"
    arguments = ["--config", "unet.yaml", *TINY, *CSV, f"--data.init_args.root={root}"]
    mask = "--model.init_args.mask=ratio"
    assert cli.main(["fit", *arguments, mask, "--run_dir", "run"]) == 0
    song = next((root / "test").iterdir())
    status = separate.main(
        [str(song / "mixture.flac"), "--checkpoint", "run/checkpoints/last.ckpt", "-o", "out"]
    )
    assert status == 0
    import soundfile

    mixture, rate = soundfile.read(song / "mixture.flac")
    stems = [soundfile.read(f"out/{song.name}/{source}.wav") for source in ORDER]
    assert all(stem_rate == rate for _, stem_rate in stems)
    assert np.abs(sum(stem for stem, _ in stems) - mixture).max() < 1e-5
