"""The cascade tool, as a user meets it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.errors import DataError
from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.architectures.unet import UNet
from lightning_modules.evaluation.score_files import read_scores
from lightning_modules.tools import cascade
from lightning_modules.tools import separate as separate_tool
from tests.helpers.checkpoints import checkpoints, save
from tests.helpers.tracks import STEMS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    denoiser, separator = checkpoints(tmp_path)
    return ["--denoiser", str(denoiser), "--separator", str(separator)]


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of the rows that belong to vocals, and of those of the music itself."""
    found, group = {}, ""
    for line in printed.splitlines():
        if not line.startswith(" "):
            group = line
        elif re.match(r"  (origin|noisy|denoised)", line):
            name, *cells = line.split()
            found[f"{group}: {name}"] = cells
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
    for source in ("vocals", "accompaniment", "mean over sources"):
        for name in cascade.INPUTS:
            assert len(found[f"{source}: {name}"]) == 4
    for name in cascade.INPUTS:
        scores = read_scores(Path(f"out/{name}/test/Test - Song.json"))
        median = scores.medians["vocals"]["SDR"]
        assert found[f"vocals: {name}"][0] == f"{median:.2f}"
    music = read_scores(Path("out/music_noisy/test/Test - Song.json"))
    assert found["the music itself, not separated: noisy"][0] == (
        f"{music.medians['music']['SDR']:.2f}"
    )
    assert Path("out/pictures/Test - Song.png").stat().st_size > 10_000
    levels = found["level by octave re the clean music, dB: noisy"]
    assert len(levels) == 10

    assert cascade.main(arguments) == 2
    assert "out is not empty; give another folder by -o, or --force" in capsys.readouterr().err
    assert cascade.main([*arguments, "--force"]) == 0
    assert rows(capsys.readouterr().out) == found


@pytest.mark.slow
def test_folders_and_training_tracks(
    pair: list[str], musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for folder in ("rooms", "noise"):
        Path(folder).mkdir()
        soundfile.write(f"{folder}/a.wav", random.normal(0, 0.1, 4000), 44100)
    folders = ["--impulse-responses", "rooms", "--noise", "noise", "--subset", "train"]
    assert cascade.main([*pair, "--root", str(musdb_root), "-o", "out", *folders]) == 0
    assert capsys.readouterr().out.startswith("5 train tracks; dB")


@pytest.mark.slow
def test_without_degradation_and_denoising_all_rows_are_alike(
    pair: list[str], musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the paper's excerpts begin where they should."""
    monkeypatch.setattr(cascade, "_PAPER_START", 44100)
    monkeypatch.setattr(cascade, "_PAPER_SAMPLES", 66150)
    monkeypatch.setattr(cascade, "_PAPER_TRACKS", 2)
    for name in ("response", "silence"):
        Path(name).mkdir()
    soundfile.write("response/a.wav", [1.0], 44100, subtype="FLOAT")
    soundfile.write("silence/a.wav", np.zeros(100), 44100)
    monkeypatch.setattr(DenoisingAutoencoder, "magnitudes", lambda _, mixture: mixture[:, None])
    arguments = [*pair, "--root", str(musdb_root), "-o", "out", "--paper-excerpts"]
    folders = ["--impulse-responses", "response", "--noise", "silence"]
    assert cascade.main([*arguments, *folders]) == 0
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


def test_mistakes(
    pair: list[str], tmp_path: Path, musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    odd = save(UNet(["guitar"], channels=[4], segment_seconds=0.5), tmp_path / "odd.ckpt")
    denoiser, separator = pair[1], pair[3]
    root = ["--root", str(musdb_root), "-o", "out"]
    cases = [
        (["--denoiser", "gone.ckpt", "--separator", separator, *root], ["gone.ckpt"]),
        (["--denoiser", separator, "--separator", denoiser, *root], ["one source", "swap"]),
        (["--denoiser", denoiser, "--separator", str(odd), *root], ["'guitar'", "accompaniment"]),
        ([*pair, *root, "--noise", "nowhere"], ["nowhere", "noise recordings"]),
        (
            [*pair, *root, "--paper-excerpts"],
            ["Actions - One Minute Smile: has 132,300 samples", "2,000,000", "5 of 5 tracks"],
        ),
    ]
    for arguments, words in cases:
        assert cascade.main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert all(word in error for word in words), error
    assert not Path("out").exists()


def test_stems_of_sources() -> None:
    assert cascade.stems_of(["vocals", "accompaniment"]) == {
        "vocals": ["vocals"],
        "accompaniment": ["drums", "bass", "other"],
    }
    assert list(cascade.stems_of(STEMS)) == list(STEMS)
    with pytest.raises(DataError, match="guitar"):
        cascade.stems_of(["guitar"])


def test_the_separate_tool_takes_a_denoiser(pair: list[str]) -> None:
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
    assert (
        separate_tool.main(["song.wav", "--checkpoint", separator, "--denoiser", "gone.ckpt"]) == 2
    )


def test_a_denoiser_separates_as_any_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save(DenoisingAutoencoder(["music"], [2], segment_seconds=0.5), tmp_path / "d.ckpt")
    soundfile.write("song.wav", np.random.default_rng(0).normal(0, 0.1, (30_000, 2)), 44100)
    assert separate_tool.main(["song.wav", "--checkpoint", str(path), "-o", "out"]) == 0
    assert soundfile.info("out/song/music.wav").frames == 30_000
