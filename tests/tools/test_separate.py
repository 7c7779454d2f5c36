"""The separate tool, as a user meets it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_modules.checkpoint import load_separator
from lightning_modules.tools import separate
from lightning_modules.unet import UNet
from tests.test_checkpoint import save

RATE = 44100


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    model = UNet(["vocals", "other"], channels=[4, 8], segment_seconds=0.5, mask="ratio")
    return str(save(model, tmp_path / "model.ckpt"))


def song(path: Path, seconds: float = 1.7, rate: int = RATE, channels: int = 2) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, audio, rate)
    stored: np.ndarray = soundfile.read(path, always_2d=True)[0]
    return stored


def total(folder: Path) -> tuple[np.ndarray, int]:
    parts = [
        soundfile.read(folder / f"{source}.wav", always_2d=True) for source in ("vocals", "other")
    ]
    return parts[0][0] + parts[1][0], parts[0][1]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_stems_add_up_to_the_song(checkpoint: str, suffix: str, channels: int) -> None:
    audio = song(Path(f"my song.{suffix}"), channels=channels)
    assert separate.main([f"my song.{suffix}", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, rate = total(Path("out/my song"))
    assert rate == RATE
    assert summed.shape == audio.shape
    assert np.abs(summed - audio).max() < 1e-5
    assert sorted(path.name for path in Path("out").iterdir()) == ["my song"]


def test_shifts_are_averaged(checkpoint: str) -> None:
    """Sources change, their sum does not; without the option the model's own number counts."""
    audio = song(Path("song.wav"))
    arguments = ["song.wav", "--checkpoint", checkpoint, "-o"]
    assert separate.main([*arguments, "out"]) == 0
    assert separate.main([*arguments, "shifted", "--shifts", "2"]) == 0
    assert np.abs(total(Path("shifted/song"))[0] - audio).max() < 1e-5
    waveform, _ = soundfile.read("song.wav", dtype="float32", always_2d=True)
    model = load_separator(checkpoint)
    for folder, shifts in (("out", 0), ("shifted", 2)):
        model.shifts = shifts
        expected = model.separate(torch.from_numpy(waveform.T))[0].T
        assert np.allclose(soundfile.read(f"{folder}/song/vocals.wav")[0], expected, atol=1e-6)
    apart = [soundfile.read(f"{folder}/song/vocals.wav")[0] for folder in ("out", "shifted")]
    assert np.abs(apart[0] - apart[1]).max() > 1e-4


def test_another_rate_comes_back_at_that_rate(checkpoint: str) -> None:
    audio = song(Path("song.wav"), rate=48000)
    assert separate.main(["song.wav", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, rate = total(Path("out/song"))
    assert rate == 48000
    assert summed.shape == audio.shape


def test_folder_and_tracks_of_musdb(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    song(Path("album/one.wav"))
    song(Path("album/two.flac"))
    Path("album/cover.jpg").write_bytes(b"no music")
    assert separate.main(["album", "--checkpoint", checkpoint, "-o", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["one", "two"]
    assert "one" in capsys.readouterr().err, "a progress bar names the song"
    song(Path("train/A - Song/mixture.wav"))
    assert separate.main(["train/A - Song/mixture.wav", "--checkpoint", checkpoint]) == 0
    assert Path("separated/A - Song/vocals.wav").is_file()


def test_nothing_is_overwritten_without_force(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    song(Path("song.wav"))
    Path("out/song").mkdir(parents=True)
    Path("out/song/other.wav").write_text("precious")
    arguments = ["song.wav", "--checkpoint", checkpoint, "-o", "out"]
    assert separate.main(arguments) == 2
    assert "out/song/other.wav is there already; give --force" in capsys.readouterr().err
    assert Path("out/song/other.wav").read_text() == "precious"
    assert separate.main([*arguments, "--force"]) == 0
    assert soundfile.info("out/song/other.wav").samplerate == RATE


@pytest.mark.parametrize("suffix", ["mp3", "m4a", "ogg"])
def test_compressed_songs(checkpoint: str, suffix: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    audio = song(Path("song.wav"))
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", "song.wav", f"song.{suffix}"], check=True)
    assert separate.main([f"song.{suffix}", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, _ = total(Path("out/song"))
    assert abs(len(summed) - len(audio)) < 3000  # a codec pads a frame or two


def test_mistakes(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    song(Path("song.wav"))
    song(Path("other/song.wav"))
    song(Path("six.wav"), channels=6)
    Path("empty.wav").touch()
    Path("text.wav").write_text("not audio at all")
    Path("folder").mkdir()
    good = ["--checkpoint", checkpoint]
    cases = [
        (["gone.wav", *good], ["gone.wav"]),
        (["empty.wav", *good], ["empty.wav", "0 bytes"]),
        (["text.wav", *good], ["text.wav"]),
        (["folder", *good], ["folder", "no audio file"]),
        (["song.wav", "other/song.wav", *good], ["both be written to song/"]),
        (["song.wav", "--checkpoint", "gone.ckpt"], ["gone.ckpt", "model.ckpt"]),
        (["song.wav", *good, "--overlap", "0.9"], ["0.9", "0 to 0.5"]),
        (["song.wav", *good, "--shifts", "-1"], ["shifts is -1", "give 0"]),
        (["six.wav", *good], ["6 channels"]),
    ]
    for arguments, words in cases:
        assert separate.main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert all(word in error for word in words), error
    assert not list(Path().rglob("*.unfinished")), "nothing half-written is left"
