"""What one tool writes, the others read: outputs of separate, convert and the web app."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules import convert
from datamodules.doctor import report
from datamodules.tracks.index import index_tracks
from datamodules.tracks.write_track import SUBTYPES
from lightning_modules.architectures.unet import UNet
from lightning_modules.evaluation import scorer
from lightning_modules.evaluation.score_files import read_folder
from lightning_modules.tools import compare, score, separate
from tests.helpers.checkpoints import save
from tests.helpers.light_runs import ScoringThreads, lighten
from tests.helpers.tracks import STEMS, write_track

TRACKS = ("Zoë - One", "Two")
MODEL = ["--checkpoint", "model.ckpt", "-o", "separated"]
SCORE = ["separated", "data", "-o", "scores", "--processes", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two test tracks, and a model of its stems."""
    folder = tmp_path_factory.mktemp("made")
    for number, name in enumerate(TRACKS):
        write_track(folder / "data" / "test" / name, 1.2, sample_rate=8000, seed=number)
    torch.manual_seed(0)
    model = UNet(list(STEMS), sample_rate=8000, segment_seconds=0.5, mask="ratio", **UNet.tiny)
    save(model, folder / "model.ckpt")
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scorer, "ScoringPool", ScoringThreads)
    lighten(monkeypatch)
    for path in made.iterdir():
        Path(path.name).symlink_to(path)


def run_separate(*options: str) -> None:
    songs = [f"data/test/{name}/mixture.wav" for name in TRACKS]
    assert separate.main([*songs, *MODEL, *options]) == 0


ALL_STEMS = [
    [],
    ["--format", "flac"],
    ["--bits", "16"],
    ["--residual"],
    pytest.param(["--format", "mp3"], marks=pytest.mark.slow),
    pytest.param(["--format", "stem.mp4"], marks=pytest.mark.slow),
    ["--name", "{song} - {stem}"],
    ["--name", "{song}_({stem})"],
    ["--name", "{stem}/{song}"],
    ["--name", "{song}/{song}_{stem}", "--format", "flac"],
    ["--name", "test/{song}/{stem}"],
]


@pytest.mark.parametrize("options", ALL_STEMS)
def test_score_reads_all_that_separate_writes(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_separate(*options)
    assert score.main(SCORE) == 0, capsys.readouterr().err
    scores = read_folder("scores/test")
    assert [set(track.frames) for track in scores] == [set(STEMS)] * 2
    assert all(np.isfinite(track.usdr[stem]) for track in scores for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--name", "{song} {stem}"],
        pytest.param(["--format", "stem.mp4"], marks=pytest.mark.slow),
    ],
)
def test_score_reads_two_stems(stem: str, options: list[str]) -> None:
    run_separate("--two-stems", stem, *options)
    assert score.main([*SCORE, "--mixture", "--metrics", "si_sdr"]) == 0
    other = "accompaniment" if stem == "vocals" else f"no_{stem}"
    for track in read_folder("scores/test"):
        assert list(track.frames) == [stem, other]
        assert set(track.metrics["si_sdr"]) == {stem, other}
    assert compare.main(["scores", "scores/mixture"]) == 0


def test_sum_of_the_others_is_the_reference(tmp_path: Path) -> None:
    """A perfect estimate has a perfect score."""
    for name in TRACKS:
        folder = Path("data/test", name)
        stems = {stem: soundfile.read(folder / f"{stem}.wav")[0] for stem in STEMS}
        noise = 1e-4 * np.random.default_rng(0).standard_normal(stems["bass"].shape)
        Path("separated", name).mkdir(parents=True)
        for target, names in (("drums", ["drums"]), ("no_drums", ["vocals", "bass", "other"])):
            total = sum(stems[each] for each in names)
            soundfile.write(f"separated/{name}/{target}.wav", total + noise, 8000, "FLOAT")
    assert score.main(SCORE) == 0
    for track in read_folder("scores/test"):
        assert track.usdr["no_drums"] > 40
        assert track.usdr["drums"] > 40


# ------------------------------------------------------------ as a data set


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--format", "flac"],
        pytest.param(["--format", "stem.mp4"], marks=pytest.mark.slow),
    ],
)
def test_separated_songs_are_a_data_set(options: list[str]) -> None:
    template = ["--name", "{song}/{stem}"] if "stem.mp4" not in options else ["--name", "{song}"]
    songs = [f"data/test/{name}/mixture.wav" for name in TRACKS]
    arguments = ["--checkpoint", "model.ckpt", "-o", "new/train", *template]
    assert separate.main([*songs, *arguments, *options]) == 0
    tracks = index_tracks("new", "train", progress=False)
    assert sorted(track.name for track in tracks) == sorted(TRACKS)
    found = report.examine("new", progress=False)
    assert not [finding for finding in found.findings if finding.severity == "error"]
    assert convert.main(["new", "converted"]) == 0
    assert len(index_tracks("converted", "train", progress=False)) == 2
    assert score.main(["converted/train", "data", "-o", "scores", "--processes", "1"]) == 0


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_score_reads_what_convert_writes(subtype: str) -> None:
    assert convert.main(["data", "converted", "--subtype", subtype]) == 0
    for root in ("data", "converted"):
        arguments = ["converted", root, "-o", f"scores {root}", "--processes", "1"]
        assert score.main(arguments) == 0
        assert len(read_folder(f"scores {root}/test")) == 2


# --------------------------------------------------------- of other programs


def test_downloads_of_the_web_app(tmp_path: Path) -> None:
    """Single files, and the zip file after it was unpacked."""
    run_separate()
    for name in TRACKS:
        with zipfile.ZipFile(f"{name}.zip", "w") as file:
            for stem in STEMS:
                file.write(f"separated/{name}/{stem}.wav", f"{name}/{stem}.wav")
                target = Path(f"downloads/{name} - {stem}.wav")
                target.parent.mkdir(exist_ok=True)
                shutil.copy(f"separated/{name}/{stem}.wav", target)
        shutil.unpack_archive(f"{name}.zip", "unpacked")
    for folder in ("downloads", "unpacked"):
        assert score.main([folder, "data", "-o", f"scores {folder}", "--processes", "1"]) == 0
        assert [set(track.frames) for track in read_folder(f"scores {folder}/test")] == [
            set(STEMS)
        ] * 2


def test_folder_above_the_estimates_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Demucs writes into a folder of the model's name."""
    run_separate()
    shutil.move("separated", "demucs/htdemucs")
    assert score.main(["demucs", *SCORE[1:]]) == 2
    assert "did you mean demucs/htdemucs?" in capsys.readouterr().err


def test_faulty_files_are_all_named_and_other_tracks_scored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_separate()
    first = Path("separated", TRACKS[0])
    soundfile.write(first / "vocals.wav", np.zeros((9600, 1)), 8000)
    soundfile.write(first / "drums.wav", np.zeros((9600, 2)), 16000)
    (first / "bass.wav").write_bytes(b"")
    assert score.main(SCORE) == 1
    err = capsys.readouterr().err
    assert "vocals.wav: has 1 channel(s), its track 2 channel(s)" in err
    assert "drums.wav: has 16000 Hz, its track 8000 Hz; resample the estimate" in err
    assert "bass.wav: is empty (0 bytes)" in err
    assert [track.name for track in read_folder("scores/test")] == [TRACKS[1]]


@pytest.mark.slow
def test_damaged_stem_mp4_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    run_separate("--format", "stem.mp4")
    (file,) = Path("separated", TRACKS[0]).glob("*.stem.mp4")
    file.write_bytes(file.read_bytes()[:3000])
    assert score.main(SCORE) == 1
    assert f"left out: {TRACKS[0]}: {file}: " in capsys.readouterr().err
    assert [track.name for track in read_folder("scores/test")] == [TRACKS[1]]


def test_nothing_scored_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    run_separate("--stems", "vocals")
    assert score.main(SCORE) == 2
    err = capsys.readouterr().err
    for name in TRACKS:
        assert f"left out: {name}: separated/{name}: expected estimates of at least two" in err


@pytest.mark.slow
def test_lossy_estimates_of_ffmpeg(tmp_path: Path) -> None:
    run_separate()
    for path in list(Path("separated").rglob("*.wav")):
        command = ["ffmpeg", "-v", "error", "-i", str(path), str(path.with_suffix(".m4a"))]
        subprocess.run(command, check=True)
        path.unlink()
    assert score.main(SCORE) == 0
    assert len(read_folder("scores/test")) == 2
