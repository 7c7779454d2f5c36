"""The cascade tool from its command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.evaluation.score_files import read_scores
from lightning_modules.evaluation.scores import score_track
from lightning_modules.tools import cascade
from lightning_modules.tools import separate as separate_tool
from tests.helpers.checkpoints import checkpoints
from tests.helpers.light_runs import ScoringThreads
from tests.helpers.tracks import STEMS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    denoiser, separator = checkpoints(tmp_path)
    return ["--denoiser", str(denoiser), "--separator", str(separator)]


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of the printed tables by group and input: "vocals: origin", "level: noisy"."""
    found, group = {}, ""
    for line in printed.splitlines():
        if line.startswith("level"):
            group = "level"
        elif row := re.match(r"(.*?) *\b(origin|noisy|denoised) +([-. \d]+)$", line):
            group = row[1] or group
            found[f"{group}: {row[2]}"] = row[3].split()
    return found


@pytest.mark.slow
def test_table_scores_and_pictures(
    pair: list[str], musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*pair, "--root", str(musdb_root), "-o", "out", "--device", "cpu"]
    assert cascade.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 test track; dB; median over tracks")
    found = rows(printed)
    for source in ("vocals", "accompaniment", "mean of sources"):
        for name in cascade.INPUTS:
            assert len(found[f"{source}: {name}"]) == 4
    for name in cascade.INPUTS:
        scores = read_scores(Path(f"out/{name}/test/Test - Song.json"))
        median = scores.medians["vocals"]["SDR"]
        assert found[f"vocals: {name}"][0] == f"{median:.2f}"
    music = read_scores(Path("out/music_noisy/test/Test - Song.json"))
    assert found["music itself: noisy"][0] == f"{music.medians['music']['SDR']:.2f}"
    assert Path("out/pictures/Test - Song.png").stat().st_size > 10_000
    assert len(found["level: noisy"]) == 10

    assert cascade.main(arguments) == 2
    assert "out is not empty; give another folder with -o, or --force" in capsys.readouterr().err
    assert cascade.main([*arguments, "--force"]) == 0
    assert rows(capsys.readouterr().out) == found


@pytest.mark.slow
def test_tracks_that_cannot_be_scored_are_left_out(
    pair: list[str],
    musdb_root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*pair, "--root", str(musdb_root), "-o", "out", "--device", "cpu", "--force"]
    names = sorted(path.name for path in (musdb_root / "train").iterdir())

    def score(name: str, *audio: object) -> object:
        if name in lost:
            raise MemoryError("no room")
        return score_track(name, *audio)  # type: ignore[arg-type]

    monkeypatch.setattr(cascade, "score_track", score)
    monkeypatch.setattr(cascade, "ScoringPool", ScoringThreads)
    lost = names[:1]
    assert cascade.main([*arguments, "--subset", "train"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{len(names) - 1} train track")
    assert f"left out: {names[0]}: MemoryError: no room" in err
    lost = names
    assert cascade.main([*arguments, "--subset", "train"]) == 2


@pytest.mark.slow
def test_all_inputs_score_the_same_without_degradation_and_denoising(
    pair: list[str],
    musdb_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On excerpts of training tracks, with folders of recordings."""
    monkeypatch.setattr(cascade, "ScoringPool", ScoringThreads)
    monkeypatch.setattr(cascade, "PAPER_START", 44100)
    monkeypatch.setattr(cascade, "PAPER_SAMPLES", 66150)
    monkeypatch.setattr(cascade, "PAPER_TRACKS", 2)
    for name in ("response", "silence"):
        Path(name).mkdir()
    soundfile.write("response/a.wav", [1.0], 44100, subtype="FLOAT")
    soundfile.write("silence/a.wav", np.zeros(100), 44100)
    monkeypatch.setattr(DenoisingAutoencoder, "magnitudes", lambda _, mixture: mixture[:, None])
    arguments = [*pair, "--root", str(musdb_root), "-o", "out", "--paper-excerpts"]
    folders = ["--impulse-responses", "response", "--noise", "silence"]
    assert cascade.main([*arguments, *folders]) == 0
    assert capsys.readouterr().out.startswith("2 train tracks, the paper's excerpts; dB")
    names = sorted(path.stem for path in (musdb_root / "train").iterdir())[:2]
    for name in names:
        one, two, three = (
            read_scores(Path(f"out/{kind}/train/{name}.json")) for kind in cascade.INPUTS
        )
        assert one.frame_count == 1
        for other in (two, three):
            for metric, values in one.frames["vocals"].items():
                assert np.allclose(values, other.frames["vocals"][metric], atol=0.02), metric
        music = read_scores(Path(f"out/music_denoised/train/{name}.json"))
        assert music.medians["music"]["SDR"] > 50


def test_stems_of_sources() -> None:
    assert cascade.stems_of(["vocals", "accompaniment"]) == {
        "vocals": ["vocals"],
        "accompaniment": ["drums", "bass", "other"],
    }
    assert list(cascade.stems_of(STEMS)) == list(STEMS)
    with pytest.raises(DataError, match="guitar"):
        cascade.stems_of(["guitar"])


def test_separate_with_a_denoiser(pair: list[str]) -> None:
    random = np.random.default_rng(0)
    soundfile.write("song.wav", random.normal(0, 0.1, (30_000, 2)), 44100)
    _, denoiser, _, separator = pair
    for output, extra in (("plain", []), ("cascade", ["--denoiser", denoiser])):
        arguments = ["song.wav", "--checkpoint", separator, "-o", output, *extra]
        assert separate_tool.main(arguments) == 0
    plain, denoised = (
        soundfile.read(f"{name}/song/vocals.wav")[0] for name in ("plain", "cascade")
    )
    assert plain.shape == denoised.shape
    assert not np.allclose(plain, denoised, atol=1e-4)
