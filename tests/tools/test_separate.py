"""The separate tool from its command line; its mistakes are in tests/test_mistakes.py."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.files.song import open_song
from datamodules.files.tags import read_tags
from lightning_modules.architectures.unet import UNet
from lightning_modules.architectures.wave_unet import WaveUNet
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.tools import separate
from tests.helpers.audio_files import convert, cut, stream
from tests.helpers.checkpoints import save
from tests.helpers.failing_songs import fail_at

RATE = 44100


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    torch.manual_seed(6)  # with other seeds an output of the final ReLU is always zero
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


@pytest.mark.parametrize(("suffix", "channels"), [("wav", 1), ("flac", 2)])
def test_stems_add_up_to_the_song(checkpoint: str, suffix: str, channels: int) -> None:
    audio = song(Path(f"my song.{suffix}"), channels=channels)
    assert separate.main([f"my song.{suffix}", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, rate = total(Path("out/my song"))
    assert rate == RATE
    assert summed.shape == audio.shape
    assert np.abs(summed - audio).max() < 1e-5
    assert sorted(path.name for path in Path("out").iterdir()) == ["my song"]


@pytest.mark.slow
def test_shifts_are_averaged(checkpoint: str) -> None:
    """Sources change, their sum does not; the default is the model's own number."""
    audio = song(Path("song.wav"))
    arguments = ["song.wav", "--checkpoint", checkpoint, "-o"]
    assert separate.main([*arguments, "out"]) == 0
    assert separate.main([*arguments, "shifted", "--shifts", "2"]) == 0
    assert np.abs(total(Path("shifted/song"))[0] - audio).max() < 1e-5
    waveform, _ = soundfile.read("song.wav", dtype="float32", always_2d=True)
    model = load_separator(checkpoint)
    for folder, shifts in (("out", 0), ("shifted", 2)):
        model.separation_settings = replace(model.separation_settings, shifts=shifts)
        expected = model.separate(torch.from_numpy(waveform.T))[0].T
        assert np.allclose(soundfile.read(f"{folder}/song/vocals.wav")[0], expected, atol=1e-6)
    apart = [soundfile.read(f"{folder}/song/vocals.wav")[0] for folder in ("out", "shifted")]
    assert np.abs(apart[0] - apart[1]).max() > 1e-4


def test_stems_have_the_sample_rate_of_the_song(checkpoint: str) -> None:
    audio = song(Path("song.wav"), rate=48000)
    assert separate.main(["song.wav", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, rate = total(Path("out/song"))
    assert rate == 48000
    assert summed.shape == audio.shape


@pytest.mark.slow
def test_input_folders_and_musdb_tracks(checkpoint: str) -> None:
    song(Path("album/one.wav"))
    song(Path("album/two.flac"))
    Path("album/cover.jpg").write_bytes(b"no music")
    assert separate.main(["album", "--checkpoint", checkpoint, "-o", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["one", "two"]
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
    assert "out/song/other.wav already exists; give --force" in capsys.readouterr().err
    assert Path("out/song/other.wav").read_text() == "precious"
    assert separate.main([*arguments, "--force"]) == 0
    assert soundfile.info("out/song/other.wav").samplerate == RATE


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp3", "m4a"])
def test_compressed_songs(checkpoint: str, suffix: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    audio = song(Path("song.wav"))
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", "song.wav", f"song.{suffix}"], check=True)
    assert separate.main([f"song.{suffix}", "--checkpoint", checkpoint, "-o", "out"]) == 0
    summed, _ = total(Path("out/song"))
    assert abs(len(summed) - len(audio)) < 3000  # a codec pads a frame or two


def file_stems(folder: str, suffix: str = "wav") -> list[str]:
    return sorted(path.name.removesuffix(f".{suffix}") for path in Path(folder).iterdir())


def test_stem_selection_and_residual(checkpoint: str) -> None:
    audio = song(Path("song.wav"))
    arguments = ["song.wav", "--checkpoint", checkpoint, "-o"]
    assert separate.main([*arguments, "all"]) == 0
    assert separate.main([*arguments, "one", "--stems", "other", "--residual"]) == 0
    assert separate.main([*arguments, "two", "--two-stems", "vocals"]) == 0
    assert file_stems("one/song") == ["other", "residual"]
    assert file_stems("two/song") == ["no_vocals", "vocals"]
    for one, other in (
        ("one/song/other", "all/song/other"),
        ("two/song/vocals", "all/song/vocals"),
        ("two/song/no_vocals", "all/song/other"),  # the masks add up to 1
    ):
        found, expected = (soundfile.read(f"{path}.wav")[0] for path in (one, other))
        assert np.allclose(found, expected, atol=1e-6)
    # With ratio masks all stems add up to the mixture, also if some are not written.
    residual = soundfile.read("one/song/residual.wav", always_2d=True)[0]
    assert residual.shape == audio.shape
    assert np.abs(residual).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "subtype"),
    [
        (["--format", "wav", "--bits", "16"], "PCM_16"),
        (["--format", "flac"], "PCM_24"),
        (["--format", "flac", "--bits", "16"], "PCM_16"),
    ],
)
def test_formats_and_tags(checkpoint: str, words: list[str], subtype: str) -> None:
    song(Path("song.wav"))
    with soundfile.SoundFile("tagged.flac", "w", RATE, 2) as file:
        file.title, file.artist, file.album = "My Song", "Somebody", "First"
        file.write(soundfile.read("song.wav")[0])
    assert separate.main(["tagged.flac", "--checkpoint", checkpoint, "-o", "float"]) == 0
    assert separate.main(["tagged.flac", "--checkpoint", checkpoint, "-o", "out", *words]) == 0
    with soundfile.SoundFile(f"out/tagged/vocals.{words[1]}") as stem:
        assert (stem.subtype, stem.samplerate) == (subtype, RATE)
        assert (stem.title, stem.artist, stem.album) == ("My Song (vocals)", "Somebody", "First")
        found = stem.read()
    exact = soundfile.read("float/tagged/vocals.wav")[0]
    assert np.abs(found - exact).max() < 2.0 ** (2 - int(subtype[-2:]))


@pytest.mark.parametrize("clipping", ["rescale", "clamp"])
def test_clipping_of_loud_stems(
    checkpoint: str, clipping: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rescaled together or clipped, except in float files."""
    audio = 3 * song(Path("song.wav"), seconds=0.6) / 0.4
    soundfile.write("loud.wav", audio, RATE, "FLOAT")
    loud = ["loud.wav", "--checkpoint", checkpoint, "-o"]
    assert separate.main([*loud, "float"]) == 0
    exact, _ = total(Path("float/loud"))
    assert np.abs(exact - audio).max() < 1e-4
    assert "turned down" not in capsys.readouterr().out
    assert separate.main([*loud, "out", "--bits", "24", "--clipping", clipping]) == 0
    said = capsys.readouterr().out
    stems = {
        name: [soundfile.read(f"{folder}/loud/{name}.wav")[0] for folder in ("float", "out")]
        for name in ("vocals", "other")
    }
    peak = max(np.abs(exact).max() for exact, _ in stems.values())
    assert peak > 1
    for exact, found in stems.values():
        if clipping == "clamp":
            assert np.abs(found - exact.clip(-1, 1)).max() < 1e-6
        else:
            assert np.abs(found - exact / peak).max() < 1e-6
    assert ("turned down to" in said) == (clipping == "rescale")


@pytest.mark.slow
def test_stem_mp4_output(checkpoint: str) -> None:
    import stempeg

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    audio = song(Path("song.wav"), seconds=1)
    arguments = ["song.wav", "--checkpoint", checkpoint, "-o"]
    assert separate.main([*arguments, "float"]) == 0
    assert separate.main([*arguments, "out", "--format", "stem.mp4"]) == 0
    assert [path.name for path in Path("out/song").iterdir()] == ["song.stem.mp4"]
    streams, rate = stempeg.read_stems("out/song/song.stem.mp4")
    assert rate == RATE
    expected = [audio] + [soundfile.read(f"float/song/{n}.wav")[0] for n in ("other", "vocals")]
    assert len(streams) == 3
    for decoded, original in zip(streams, expected, strict=True):
        # AAC codes white noise badly, but different streams are uncorrelated.
        assert np.corrcoef(decoded[: len(original)].ravel(), original.ravel())[0, 1] > 0.8
    assert separate.main([*arguments, "out", "--format", "stem.mp4"]) == 2


@pytest.mark.slow
def test_mp3_output_has_the_tags_of_the_song(checkpoint: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    song(Path("song.wav"), seconds=2)
    command = ["ffmpeg", "-loglevel", "error", "-i", "song.wav"]
    tags = ["-metadata", "title=My Song", "-metadata", "artist=Somebody", "-metadata", "track=7"]
    subprocess.run([*command, *tags, "song.m4a"], check=True)
    mp3 = ["--format", "mp3", "--bitrate", "128"]
    assert separate.main(["song.m4a", "--checkpoint", checkpoint, "-o", "out", *mp3]) == 0
    assert file_stems("out/song", "mp3") == ["other", "vocals"]
    assert read_tags(Path("out/song/vocals.mp3")) == {
        "title": "My Song (vocals)",
        "artist": "Somebody",
        "tracknumber": "7",
    }
    kilobits = 8 * Path("out/song/vocals.mp3").stat().st_size / 2 / 1000
    assert 110 < kilobits < 150


def test_patterns_standard_input_and_parallel_jobs(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/one.wav", "a/b/two.flac", "three.wav"):
        song(Path(name), seconds=0.7)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"three.wav\n\n")))
    threads = torch.get_num_threads()
    try:
        arguments = ["a/**/*", "-", "--checkpoint", checkpoint, "-o", "out", "--jobs", "2"]
        assert separate.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr()
    assert sorted(said.out.split()) == ["out/b/two", "out/one", "out/three"]
    assert file_stems("out/b/two") == ["other", "vocals"]
    assert "3 songs, 2 s of audio in" in said.err
    assert "times real time" in said.err
    one = [soundfile.read(f"{folder}/one/vocals.wav")[0] for folder in ("out", "again")[:1]]
    assert separate.main(["a/one.wav", "--checkpoint", checkpoint, "-o", "again"]) == 0
    assert np.abs(soundfile.read("again/one/vocals.wav")[0] - one[0]).max() < 1e-6


def test_resume_after_an_interrupt(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two", "three"):
        song(Path(f"{name}.wav"), seconds=0.7)
    arguments = ["one.wav", "two.wav", "three.wav", "--checkpoint", checkpoint, "-o", "out"]
    fail_at(monkeypatch, "two.wav", KeyboardInterrupt())
    assert separate.main(arguments) == 130
    assert "--resume continues" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(Path(checkpoint).parent)
    done = Path("out/one/vocals.wav").stat().st_mtime_ns
    assert separate.main(arguments) == 2, "existing stems are not overwritten"
    Path("out/two").mkdir(exist_ok=True)
    Path("out/two/vocals.wav").write_text("half a song")
    assert separate.main([*arguments, "--resume"]) == 0
    assert "1 of 3 songs are already done" in capsys.readouterr().err
    assert file_stems("out") == ["one", "three", "two"]
    assert Path("out/one/vocals.wav").stat().st_mtime_ns == done
    assert soundfile.info("out/two/vocals.wav").frames == round(0.7 * RATE)


@pytest.mark.slow
def test_a_failed_song_does_not_stop_the_others(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FLAC damaged in the middle, which is found during the separation."""
    for name in ("one.flac", "two.flac"):
        song(Path(name), seconds=8)
    with Path("one.flac").open("r+b") as file:
        file.seek(Path("one.flac").stat().st_size // 2)
        file.write(bytes(20000))
    assert separate.main(["one.flac", "two.flac", "--checkpoint", checkpoint, "-o", "out"]) == 1
    said = capsys.readouterr()
    assert f"warning: one.flac: declares {8 * RATE} samples (8.00 s), " in said.err
    assert "1 of 2 songs are incomplete" in said.err
    assert file_stems("out") == ["one", "two"]


@pytest.mark.slow
def test_a_song_that_declares_no_length(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ADTS stream: the whole song is separated."""
    song(Path("song.wav"), seconds=3)
    stream(Path("song.wav"), Path("song.aac"), "-f", "adts")
    assert separate.main(["song.aac", "--checkpoint", checkpoint, "-o", "out"]) == 0
    assert "1 song, 3 s of audio in" in capsys.readouterr().err
    expected = sum(block.shape[1] for block in open_song("song.aac").blocks)
    assert soundfile.info("out/song/vocals.wav").frames == expected >= 3 * RATE


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["flac", "mp3", "m4a", "wav"])
def test_a_truncated_song_is_separated_as_far_as_it_goes(
    suffix: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    song(Path("song.wav"), seconds=3)
    path = Path("song.wav")
    if suffix != "wav":
        options = ["-movflags", "+faststart"] if suffix == "m4a" else []
        path = convert(path, Path(f"short.{suffix}"), *options)
    arguments = [str(cut(path)), "--checkpoint", checkpoint, "-o", "out", "--residual"]
    assert separate.main(arguments) == 1
    err = capsys.readouterr().err
    frames = soundfile.info(f"out/{path.stem}/residual.wav").frames
    assert f"warning: {path}: declares " in err
    assert f"{frames} samples" in err
    assert "1 of 1 songs are incomplete" in err


@pytest.mark.slow
def test_wiener_option(checkpoint: str) -> None:
    song(Path("song.wav"))
    waveform, _ = soundfile.read("song.wav", dtype="float32", always_2d=True)
    model = load_separator(checkpoint)
    assert isinstance(model, UNet)
    for number in (0, 1):
        model.wiener_iterations = number
        arguments = ["song.wav", "--checkpoint", checkpoint, "-o", str(number)]
        assert separate.main([*arguments, "--wiener", str(number)]) == 0
        expected = model.separate(torch.from_numpy(waveform.T))[0].T
        assert np.allclose(soundfile.read(f"{number}/song/vocals.wav")[0], expected, atol=1e-6)


def test_rates_channels_and_filters_that_do_not_fit(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    song(Path("song.wav"))
    song(Path("six.wav"), channels=6)
    song(Path("high.wav"), rate=96000)
    waves = str(save(WaveUNet(["vocals", "other"], levels=3, filters=4), Path("waves.ckpt")))
    for arguments, status, words in (
        (["high.wav", "--checkpoint", checkpoint, "--format", "mp3"], 2, ["has 96000 Hz", "48000"]),
        (
            ["song.wav", "--checkpoint", waves, "--wiener", "1"],
            2,
            ["WaveUNet has no Wiener filter"],
        ),
        (["six.wav", "--checkpoint", checkpoint], 2, ["six.wav: the audio has 6", "-ac 2"]),
    ):
        assert separate.main(arguments) == status
        error = capsys.readouterr().err
        assert all(word in error for word in words), error
    assert not list(Path().rglob("*.unfinished"))
