"""The player's samples and the downloads equal the tracks."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from datamodules.errors import DataError
from datamodules.files.tags import read_tags
from lightning_modules.webapp import rendering
from lightning_modules.webapp.workspace import Limits, Song, Workspace
from tests.helpers.webapp import RATE, tiny, upload, write_song


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with Workspace(Limits(minutes=0.1, megabytes=2, keep_minutes=30)) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def song(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Song:
    path = write_song(tmp_path_factory.mktemp("songs") / "My Song.flac")
    audio = soundfile.read(path)[0]
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        file.title = "Tagged"
        file.write(audio)
    models = {"a": tiny(0), "b": tiny(1)}
    song = workspace.separate(upload(workspace, path), models)
    rendering.draw(song)
    return song


def tracks(song: Song) -> np.ndarray:
    """Shape (tracks, T, C)."""
    return np.stack([soundfile.read(track.path)[0] for track in song.tracks])


@pytest.mark.slow
def test_pcm_has_all_tracks(song: Song, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = tracks(song).transpose(0, 2, 1)

    def section(start: int, samples: int) -> np.ndarray:
        found = np.frombuffer(rendering.pcm(song, start, samples), "<i2")
        return found.reshape(5, 2, -1) / 32767 * rendering.headroom(song)

    for start, samples in ((0, 1000), (40_000, 7), (song.samples - 5, 100), (song.samples, 10)):
        found = section(start, samples)
        expected = exact[..., start : start + samples]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max(initial=0) < 0.6 / 32767
    assert section(-5, 10).shape[-1] == 10
    assert section(0, -1).shape[-1] == 0
    monkeypatch.setattr(song, "sample_rate", 100)
    assert section(0, 10**9).shape[-1] == 100 * rendering.MAX_SECONDS


@pytest.mark.slow
def test_loud_tracks_are_not_clipped(workspace: Workspace, tmp_path: Path) -> None:
    path = write_song(tmp_path / "loud.wav")
    audio = 20 * soundfile.read(path)[0]
    soundfile.write(path, audio, RATE, "FLOAT")
    song = workspace.separate(upload(workspace, path), {"a": tiny()})
    rendering.draw(song)
    assert rendering.headroom(song) > 2
    assert rendering.headroom(song) == pytest.approx(np.abs(tracks(song)).max())
    found = np.frombuffer(rendering.pcm(song, 0, song.samples), "<i2").reshape(3, 2, -1)
    found = found / 32767 * rendering.headroom(song)
    assert np.abs(found - tracks(song).transpose(0, 2, 1)).max() < rendering.headroom(song) / 60000

    mixed = rendering.remix(song, [0, 1, 1])
    found = soundfile.read(mixed)[0]
    expected = tracks(song)[1:].sum(0)
    assert np.abs(found - expected / np.abs(expected).max()).max() < 1e-4


def test_spectrograms_and_levels_of_each_track(song: Song) -> None:
    for number in range(5):
        image = imread(rendering.spectrogram(song, number))
        assert image.shape[1] == 1200
        assert image[..., :3].std() > 0.01
    assert song.peaks == pytest.approx([np.abs(track).max() for track in tracks(song)])
    assert song.powers == pytest.approx([np.square(track).mean() for track in tracks(song)])


def test_envelopes(song: Song) -> None:
    found = np.frombuffer(rendering.envelopes(song), "i1").reshape(5, 2, -1)
    assert found.shape[-1] == rendering.ENVELOPE_SECTIONS
    scale = 127 / max(song.peaks)
    for (lowest, highest), track in zip(found, tracks(song), strict=True):
        assert lowest.min() == pytest.approx(track.min() * scale, abs=0.51)
        assert highest.max() == pytest.approx(track.max() * scale, abs=0.51)
    short = rendering.envelope(np.array([[0.5, -0.25], [0.75, 0]], np.float32))
    assert short.tolist() == [[0.5, -0.25], [0.75, 0]], "sections of one sample"


@pytest.mark.slow
def test_mix_is_the_weighted_sum(song: Song) -> None:
    levels = [0.0, 0.5, 0.25, 0.0, 1.5]
    path = rendering.remix(song, levels)
    info = soundfile.info(path)
    assert (info.subtype, info.samplerate, info.frames) == ("PCM_24", RATE, song.samples)
    expected = np.tensordot(levels, tracks(song), 1)
    assert np.abs(soundfile.read(path)[0] - expected).max() < 2.0**-22
    assert not soundfile.read(rendering.remix(song, [0.0] * 5))[0].any()
    assert rendering.remix(song, levels) != path, "simultaneous mixes do not collide"


@pytest.mark.parametrize(
    "levels", [[1.0] * 4, [1.0] * 6, [], [1, 1, 1, 1, 2.5], [-0.1, 1, 1, 1, 1], [float("nan")] * 5]
)
def test_invalid_levels_are_refused(song: Song, levels: list[float]) -> None:
    with pytest.raises(DataError, match="give 5 numbers from 0 to 2"):
        rendering.remix(song, levels)


@pytest.mark.slow
def test_formats(song: Song, tmp_path: Path) -> None:
    exact = tracks(song)
    forms = rendering.formats(song)
    assert forms == ["wav", "flac", "mp3"][: 3 if shutil.which("ffmpeg") else 2]
    for form in forms:
        path = rendering.stem(song, 3, form)
        assert path == rendering.stem(song, 3, form)
        assert soundfile.info(path).format == form.upper()
        found = soundfile.read(path)[0][: song.samples]
        tolerance = {"wav": 0, "flac": 2.0**-23, "mp3": 0.1}[form]
        assert np.abs(found - exact[3][: len(found)]).max() <= tolerance
        with zipfile.ZipFile(rendering.archive(song, "b", form)) as file:
            assert file.namelist() == [f"My Song/vocals.{form}", f"My Song/other.{form}"]
            assert file.read(f"My Song/vocals.{form}") == path.read_bytes()
        mix = rendering.remix(song, [0, 0, 0, 1, 0], form)
        assert soundfile.info(mix).format == form.upper()
    odd = Song(tmp_path, "x", tmp_path, 50_000, 2, 100)
    assert rendering.formats(odd) == ["wav", "flac"], "MP3 has no 50 kHz"


def test_zip_of_one_model(song: Song) -> None:
    path = rendering.archive(song, "b")
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["My Song/vocals.wav", "My Song/other.wav"]
        for name, track in zip(file.namelist(), song.stems("b"), strict=True):
            assert file.read(name) == track.path.read_bytes()
    made = path.stat().st_mtime_ns
    assert rendering.archive(song, "b").stat().st_mtime_ns == made
    assert rendering.archive(song, "a") != path


@pytest.mark.slow
def test_stem_mp4_of_one_model(song: Song) -> None:
    import stempeg

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    path = rendering.stem_mp4(song, "b")
    streams, rate = stempeg.read_stems(str(path))
    assert rate == RATE
    mixture, _, _, vocals, other = tracks(song)
    for stream, original in zip(streams, (mixture, other, vocals), strict=True):
        likeness = np.corrcoef(stream[: song.samples].ravel(), original.ravel())[0, 1]
        assert likeness > 0.8
    assert read_tags(path)["title"] == "Tagged"
