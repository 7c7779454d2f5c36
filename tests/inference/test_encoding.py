"""Formats of stems: exact samples, tags and covers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files import ffmpeg
from datamodules.files.covers import read_cover
from datamodules.files.info import AudioInfo
from datamodules.files.song import open_song
from datamodules.files.tags import read_tags
from lightning_modules.inference.encoding import FORMATS, Encoding
from lightning_modules.inference.selection import Selection
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.separators import TWO, Gains

RATE = 44100
TAGS = {"title": "A title", "artist": "Some=body; else", "album": "First\\#1", "tracknumber": "7"}


def run(*words: str | Path) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *words], check=True)


@pytest.fixture(scope="module", params=["jpg", "png"])
def song(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song with tags and a cover that is too large for a command line."""
    folder = tmp_path_factory.mktemp("song")
    noise = np.random.default_rng(0).integers(-9000, 9000, (RATE // 2, 2), np.int16)
    soundfile.write(folder / "plain.wav", noise, RATE)
    picture = folder / f"cover.{request.param}"
    run("-f", "lavfi", "-i", "nullsrc=s=300x300,geq=random(1)*255", "-frames:v", "1", picture)
    tags = [word for name, value in TAGS.items() for word in ("-metadata", f"{name}={value}")]
    inputs: list[str | Path] = ["-i", folder / "plain.wav", "-i", picture, "-map", "0", "-map", "1"]
    inputs += ["-c:v", "copy"]
    run(*inputs, "-disposition:v", "attached_pic", *tags, folder / "song.flac")
    return folder / "song.flac"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_tags_and_cover_are_those_of_the_song(form: str, song: Path, tmp_path: Path) -> None:
    separate_file(Gains(TWO), song, tmp_path / "out", encoding=Encoding(form))
    suffix = Encoding(form).suffix
    name = "out" if form == "stem.mp4" else "vocals"
    stem = tmp_path / f"out/{name}.{suffix}"
    title = "A title" if form == "stem.mp4" else "A title (vocals)"
    assert read_tags(stem) == {**TAGS, "title": title}
    original = read_cover(song)
    assert original is not None
    assert len(original.content) > (2**17 if song.with_name("cover.png").exists() else 2**15)
    assert read_cover(stem) == (None if form == "wav" else original)
    opened = open_song(stem)
    found = np.concatenate([*opened.blocks], 1)
    assert opened.info.sample_rate == (48000 if form == "opus" else RATE)
    assert abs(found.shape[1] / opened.info.sample_rate - 0.5) < 0.06
    assert not opened.shortfall()
    strict = ["ffmpeg", "-v", "warning", "-i", str(stem), "-map", "0:a", "-f", "null", "-"]
    checked = subprocess.run(strict, capture_output=True, check=True)
    assert b"rror" not in checked.stderr


@pytest.mark.parametrize("bits", [16, 24])
def test_alac_is_exact(bits: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-30000, 30000, (5000, 2), np.int16)
    noise[:2] = -32768
    soundfile.write(tmp_path / "song.wav", noise, RATE)
    encoding, selection = Encoding("alac", bits), Selection(two_stems="vocals")
    separate_file(
        Gains(["vocals"], 0.7), tmp_path / "song.wav", tmp_path,
        encoding=encoding, selection=selection,
    )  # fmt: skip
    parts = []
    for name in ("vocals", "no_vocals"):
        run("-i", tmp_path / f"{name}.m4a", "-c:a", "pcm_s32le", tmp_path / f"{name}.wav")
        parts.append(soundfile.read(tmp_path / f"{name}.wav", dtype="int32")[0].astype(np.int64))
        assert (np.abs(parts[-1]) % 2 ** (32 - bits) == 0).all()
    assert np.array_equal(sum(parts), noise.astype(np.int64) << 16)


def test_integers_are_the_nearest(tmp_path: Path) -> None:
    """libsndfile rounds down."""
    audio = np.array([0.4, 0.6, -0.4, -0.6, 32767.4], np.float32) / 32768
    soundfile.write(tmp_path / "song.wav", audio, RATE, "FLOAT")
    for form in ("wav", "flac"):
        encoding = Encoding(form, 16)
        separate_file(Gains(["a"], 1.0), tmp_path / "song.wav", tmp_path, encoding=encoding)
        found, _ = soundfile.read(tmp_path / f"a.{form}", dtype="int16")
        assert found.tolist() == [0, 1, 0, -1, 32767]


def test_missing_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = b" A....D libmp3lame  MP3\n A..X.. opus   Opus\n"
    monkeypatch.setattr(ffmpeg, "_encoders", lambda: listed)
    Encoding("mp3")
    with pytest.raises(FFmpegMissingError, match="Writing opus needs ffmpeg with the encoder lib"):
        Encoding("opus")


def test_limits() -> None:
    mono = AudioInfo(1, RATE, 1, "")
    with pytest.raises(DataError, match="choose --bitrate 256"):
        Encoding("opus", bitrate_kbps=320).check(Path("a.wav"), mono)
    Encoding("opus", bitrate_kbps=256).check(Path("a.wav"), mono)
    with pytest.raises(DataError, match="bits is 32 with alac: give 16 or 24"):
        Encoding("alac", 32)
    with pytest.raises(DataError, match="bits is 16 with opus: give no bits"):
        Encoding("opus", 16)
