"""Repair of tracks whose files do not match, through the command that converts data sets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.convert import main
from datamodules.errors import counted
from datamodules.files.resampling import resample_blocks
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS

RATE = 8000
SAMPLES = 4000
NAMES = (*STEMS, "mixture")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def track(tmp_path: Path) -> Path:
    """A track of 16-bit noise whose mixture is the sum of its stems."""
    folder = tmp_path / "root" / "train" / "A"
    folder.mkdir(parents=True)
    stems = np.random.default_rng(0).integers(-2000, 2000, (4, SAMPLES, 2)).astype(np.int16)
    for name, samples in zip(NAMES, (*stems, stems.sum(0, np.int16)), strict=True):
        write(folder / f"{name}.wav", samples)
    return folder


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = None) -> None:
    soundfile.write(path, samples, rate, subtype)


def read(path: Path) -> np.ndarray:
    samples: np.ndarray = soundfile.read(path, dtype="int16", always_2d=True)[0]
    return samples


def convert(track: Path, *options: str) -> tuple[int, Path]:
    """Convert the track's data set, and check that nothing in it changes."""
    root = track.parents[1]
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    out = root.parent / "out"
    status = main([str(root), str(out), *options])
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return status, out / "train" / "A"


# ------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("lengths", "expected", "told"),
    [
        ({"bass": -1}, SAMPLES, "padded at the end with 1 sample (0.000 s) of silence"),
        ({"bass": 1}, SAMPLES, "cut at the end by 1 sample (0.000 s)"),
        ({"mixture": -80}, SAMPLES, "padded at the end with 80 samples (0.010 s) of silence"),
        ({"mixture": 80}, SAMPLES, "cut at the end by 80 samples (0.010 s)"),
        ({"vocals": -3, "drums": -3}, SAMPLES, "padded at the end with 3 samples"),
        # The most common length; of equally common ones the mixture's.
        ({"vocals": -3, "drums": -3, "bass": -3}, SAMPLES - 3, "cut at the end by 3 samples"),
        (dict(zip(NAMES, range(5), strict=True)), SAMPLES + 4, "padded at the end with 4 samples"),
        ({"bass": 70_000, "mixture": 70_000, "other": 70_000}, SAMPLES + 70_000, "(8.750 s)"),
    ],
)
def test_lengths(
    track: Path,
    capsys: pytest.CaptureFixture[str],
    lengths: dict[str, int],
    expected: int,
    told: str,
) -> None:
    originals = {}
    for name in NAMES:
        samples, more = read(track / f"{name}.wav"), lengths.get(name, 0)
        samples = np.pad(samples, ((0, max(0, more)), (0, 0)), constant_values=7)
        originals[name] = samples[: SAMPLES + more]
        write(track / f"{name}.wav", originals[name])
    with pytest.raises(ValueError, match=r"python -m datamodules\.convert ROOT OUT"):
        index_tracks(track.parents[1], "train", progress=False)
    status, out = convert(track)
    assert status == 0
    shown = capsys.readouterr()
    assert told in shown.out
    different = [name for name, samples in originals.items() if len(samples) != expected]
    assert shown.out.count("repaired: ") == len(different)
    assert f"{counted(len(different), 'file')} of 1 track repaired" in shown.out
    assert ("than the other files of the track" in shown.err) == (max(lengths.values()) > RATE)
    for name, original in originals.items():
        samples = read(out / f"{name}.wav")
        assert len(samples) == expected
        np.testing.assert_array_equal(samples[: len(original)], original[:expected])
        assert not samples[len(original) :].any()
    assert len(index_tracks(out.parents[1], "train", progress=False)) == 1


# ----------------------------------------------------------- rates, channels


@pytest.mark.parametrize("name", ["vocals", "other", "mixture"])
def test_mono_file_is_repeated(track: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write(track / f"{name}.wav", read(track / f"{name}.wav")[:, 0])
    status, out = convert(track)
    assert status == 0
    assert (
        f"repaired: {track / name}.wav: mono, repeated in 2 channels\n" in capsys.readouterr().out
    )
    left, right = read(out / f"{name}.wav").T
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(left, read(track / f"{name}.wav")[:, 0])


def test_stereo_file_among_mono_files_is_kept(track: Path) -> None:
    for name in ("vocals", "drums", "bass", "mixture"):
        write(track / f"{name}.wav", read(track / f"{name}.wav")[:, 0])
    status, out = convert(track)
    assert status == 0
    np.testing.assert_array_equal(read(out / "other.wav"), read(track / "other.wav"))


@pytest.mark.parametrize("channels", [3, 6])
def test_other_numbers_of_channels_are_refused(
    track: Path, capsys: pytest.CaptureFixture[str], channels: int
) -> None:
    write(track / "bass.wav", np.zeros((SAMPLES, channels), np.int16))
    status, out = convert(track)
    assert status == 2
    assert f"{track / 'bass.wav'}: has {channels} channels, but other" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 48000])
def test_rate(track: Path, capsys: pytest.CaptureFixture[str], rate: int) -> None:
    time = np.arange(SAMPLES * rate // RATE) / rate
    tone = 0.1 * np.sin(2 * np.pi * 440 * time)[:, None].repeat(2, 1).astype(np.float32)
    write(track / "bass.wav", tone, rate, subtype="FLOAT")
    status, out = convert(track, "--subtype", "FLOAT")
    assert status == 0
    told = f"{track / 'bass.wav'}: resampled from {rate} to {RATE} Hz"
    assert told in capsys.readouterr().out
    samples, found_rate = soundfile.read(out / "bass.wav", dtype="float32")
    assert found_rate == RATE
    assert len(samples) == SAMPLES
    expected = np.concatenate(list(resample_blocks([tone.T], 2, rate, RATE)), -1)[:, :SAMPLES]
    np.testing.assert_array_equal(samples[: expected.shape[1]].T, expected)


def test_all_repairs_of_one_file(track: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(track / "bass.wav", np.ones(2 * SAMPLES + 100, np.int16), 2 * RATE)
    assert convert(track)[0] == 0
    assert (
        "bass.wav: mono, repeated in 2 channels, resampled from 16000 to 8000 Hz, cut at the end "
        "by 50 samples (0.006 s)" in capsys.readouterr().out
    )


# ------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("flac", "PCM_24"), ("FLAC", None), ("WAV", None), ("wav", "PCM_24")],
)
def test_lossless_formats_need_no_repair(
    track: Path, capsys: pytest.CaptureFixture[str], suffix: str, subtype: str | None
) -> None:
    for name in NAMES:
        samples = read(track / f"{name}.wav")
        (track / f"{name}.wav").unlink()
        write(track / f"{name}.{suffix}", samples, subtype=subtype)
    status, out = convert(track)
    assert status == 0
    assert "repaired" not in capsys.readouterr().out
    for name in NAMES:
        np.testing.assert_array_equal(read(out / f"{name}.wav"), read(track / f"{name}.{suffix}"))


@pytest.mark.parametrize("suffix", ["mp3", "MP3", "m4a", "aiff", "opus"])
def test_other_formats_are_decoded(
    track: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    song = np.sin(np.arange(44100)[:, None] / [20, 30]) / 4
    for name in NAMES:
        write(track / f"{name}.wav", song, 44100)
    rate = ["-ar", "48000"] if suffix == "opus" else []
    files = f"{track}/bass.wav", f"{track}/bass.{suffix}"
    command = ["ffmpeg", "-v", "error", "-i", files[0], *rate, files[1]]
    subprocess.run(command, check=True)
    (track / "bass.wav").unlink()
    status, out = convert(track)
    assert status == 0
    shown = capsys.readouterr()
    assert (f"bass.{suffix}: decoded from" in shown.out) == (suffix not in ("aiff", "opus"))
    samples, found_rate = soundfile.read(out / "bass.wav")
    assert found_rate == 44100
    assert samples.shape == song.shape
    if suffix != "opus":
        assert np.abs(samples - song)[2000:-4000].max() < 0.1


def test_nan_is_refused_in_a_resampled_file_too(
    track: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.zeros((2 * SAMPLES, 2), np.float32)
    samples[1600] = np.nan
    write(track / "bass.wav", samples, 2 * RATE, subtype="FLOAT")
    assert convert(track)[0] == 2
    assert (
        "bass.wav: holds NaN or infinity, first at 0.100 s (sample 1600)" in capsys.readouterr().err
    )


# ------------------------------------------------------------------- mixture


def halved(track: Path) -> None:
    write(track / "mixture.wav", read(track / "mixture.wav") // 2)


def of_another_song(track: Path) -> None:
    write(track / "mixture.wav", read(track / "bass.wav")[::-1])


def silent(track: Path) -> None:
    write(track / "mixture.wav", np.zeros((SAMPLES, 2), np.int16))


def one_stem(track: Path) -> None:
    shutil.copy(track / "vocals.wav", track / "mixture.wav")


@pytest.mark.parametrize("change", [halved, of_another_song, silent, one_stem])
def test_mixture_that_is_not_the_sum_is_told_and_kept(
    track: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    change(track)
    status, out = convert(track)
    assert status == 0
    warning = f"warning: {track / 'mixture.wav'}: the mixture is not the sum of the stems"
    assert warning in capsys.readouterr().err
    np.testing.assert_array_equal(read(out / "mixture.wav"), read(track / "mixture.wav"))


def test_missing_mixture_is_the_sum_of_repaired_stems(
    track: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (track / "mixture.wav").unlink()
    write(track / "bass.wav", read(track / "bass.wav")[:-5, 0])
    status, out = convert(track)
    assert status == 0
    assert f"repaired: {track} (mixture): missing, written as the sum" in capsys.readouterr().out
    stems = np.stack([read(out / f"{name}.wav") for name in STEMS])
    np.testing.assert_array_equal(read(out / "mixture.wav"), stems.sum(0))


# -------------------------------------------------------------------- strict


def test_strict_refuses(track: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(track / "bass.wav", read(track / "bass.wav")[:-1])
    status, out = convert(track, "--strict")
    assert status == 2
    assert "bass.wav: has 3999 samples, but vocals.wav has 4000" in capsys.readouterr().err
    assert not out.exists()
    write(track / "bass.wav", np.zeros((SAMPLES, 2), np.int16))
    assert convert(track, "--strict")[0] == 0


@pytest.mark.parametrize("occupied", ["a file", "a link"])
def test_target_that_is_no_folder_is_kept(
    track: Path, capsys: pytest.CaptureFixture[str], occupied: str
) -> None:
    target = track.parents[2] / "out" / "train" / "A"
    target.parent.mkdir(parents=True)
    if occupied == "a file":
        target.write_text("mine")
    else:
        target.symlink_to("gone")
    assert convert(track)[0] == 2
    assert f"{target}: exists and is not a folder that this program" in capsys.readouterr().err
    assert target.is_symlink() or target.read_text() == "mine"
