"""Tracks at other sample rates: stems and mixture are resampled once, into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from datamodules.errors import DataError
from datamodules.files.resampling import resample_blocks, resample_file, resampled_length
from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.index import index_tracks
from datamodules.tracks.preparation import make_mappable, resample_tracks
from tests.helpers.tracks import STEMS, write_track


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEMLAB_CACHE", str(folder))
    return folder


def tone(rate: int, seconds: float, hz: float) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * hz * time + 0.3)


RATES = [(48000, 44100), (44100, 48000), (96000, 44100), (22050, 44100), (44056, 44100)]


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_length_delay_and_pass_band(tmp_path: Path, rate: int, wanted: int) -> None:
    hz = 0.45 * min(rate, wanted)  # 0.9 of the lower Nyquist frequency
    audio = np.stack([tone(rate, 0.4, hz), tone(rate, 0.4, 440)], 1)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    resample_file(tmp_path / "a.wav", tmp_path / "b.wav", wanted)
    found, found_rate = soundfile.read(tmp_path / "b.wav")
    assert found_rate == wanted
    assert len(found) == resampled_length(len(audio), rate, wanted)
    expected = np.stack([tone(wanted, 0.4, hz), tone(wanted, 0.4, 440)], 1)[: len(found)]
    edge = len(found) // 8  # the ends of a tone have a wide spectrum
    inner = slice(edge, len(expected) - edge)
    # 0.01 dB of an amplitude of 0.5.
    assert np.abs(found[inner] - expected[inner]).max() < 6e-4
    assert np.abs(found[inner, 1] - expected[inner, 1]).max() < 1e-5


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 22050), (44100, 44056), (96000, 44100)])
def test_aliases_are_below_110_db(rate: int, wanted: int) -> None:
    hz = min(0.51 * wanted, 0.4999 * rate)
    (found,) = resample([tone(rate, 0.5, hz).astype(np.float32)[None]], rate, wanted)
    assert 20 * np.log10(np.abs(found[2000:-2000]).max() / 0.5) < -110


@pytest.mark.parametrize("samples", [0, 1, 1470, 5001])
@pytest.mark.parametrize(("rate", "wanted"), [(44056, 44100), (48000, 44100), (8000, 192000)])
def test_result_does_not_depend_on_the_blocks(rate: int, wanted: int, samples: int) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (2, samples)).astype(np.float32)
    parts = resample(np.split(audio, range(700, samples, 700), axis=1), rate, wanted)
    assert parts.shape == (2, -(-samples * wanted // rate))
    assert np.allclose(parts, resample([audio], rate, wanted), atol=1e-6)


def resample(blocks: list[np.ndarray], rate: int, wanted: int) -> np.ndarray:
    return np.concatenate(list(resample_blocks(blocks, len(blocks[0]), rate, wanted)), 1)


def test_a_file_damaged_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 200_000), 44100)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.flac: damaged"):
        resample_file(path, tmp_path / "b.wav", 48000)


# ----------------------------------------------------------------- data sets


def write_data_set(root: Path) -> None:
    """Tracks of three rates, one of them FLAC."""
    write_track(root / "train" / "A", 2.0, 44100, seed=1)
    write_track(root / "train" / "B", 2.0, 48000, seed=2)
    write_track(root / "train" / "C", 2.0, 22050, seed=3, suffix="flac")
    write_track(root / "test" / "D", 2.0, 48000, seed=4)


def module(root: Path, stage: str, **arguments: Any) -> MUSDBDataModule:
    data = MUSDBDataModule(
        root=str(root), segment_seconds=0.25, batch_size=2, num_workers=0, **arguments
    )
    data.setup(stage)
    return data


def test_tracks_of_different_rates_are_resampled_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_data_set(tmp_path)
    data = module(tmp_path, "fit", examples_per_epoch=20, validation_tracks=["B"])
    told = capfd.readouterr().err
    assert "Resampling 10 files from 22050 Hz and 48000 Hz to 44100 Hz, once, into" in told
    assert "(0.01 GB)" in told
    for track in data.train_tracks:
        assert (track.samples, track.sample_rate, track.unmappable) == (88200, 44100, ())
    for batch in data.train_dataloader():
        assert batch.stems.shape == (2, 4, 2, 11025)
        assert (batch.stems.abs().amax((2, 3)) > 1e-3).all()
    crops, tracks = data.val_dataloader()
    # The mixture is the sum of the stems, and resampling is linear.
    for crop in crops:
        assert crop.mixture.shape[1:] == (2, 11025)
        assert torch.allclose(crop.mixture, crop.targets.sum(1), atol=1e-5)
    (whole,) = tracks
    assert (whole.mixture.shape, whole.sample_rate) == ((2, 96000), 48000)
    module(tmp_path, "fit", validation_tracks=["B"])
    assert "Resampling" not in capfd.readouterr().err


def test_whole_tracks_keep_their_rate(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    (track,) = module(tmp_path, "test").test_dataloader()
    for name, waveform in (("mixture", track.mixture), ("bass", track.targets[2])):
        expected, rate = soundfile.read(tmp_path / f"test/D/{name}.wav", dtype="float32")
        assert rate == track.sample_rate
        assert torch.equal(waveform, torch.from_numpy(expected.T.copy()))


def test_missing_stems_and_mixtures_stay_missing(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    (tmp_path / "train/B/drums.wav").unlink()
    (tmp_path / "train/B/mixture.wav").unlink()
    tracks = index_tracks(tmp_path, "train", missing_as_silence=True, progress=False)
    a, b, c = resample_tracks(tracks, 44100, progress=False)
    assert a == tracks[0]
    assert b.missing == ("drums",)
    assert b.mixture is None
    assert b.read("drums").shape == b.read_mixture().shape == (2, 88200)
    assert tracks[2].unmappable == STEMS
    ready = make_mappable(tracks, progress=False)
    assert ready[:2] == tracks[:2]
    assert (ready[2].unmappable, ready[2].mixture) == ((), tracks[2].mixture)
    for stem in STEMS:
        assert np.array_equal(ready[2].read(stem), tracks[2].read(stem))
    assert c.read_mixture().shape == (2, 88200)


def test_different_rates_within_a_track_are_an_error(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    bass = tmp_path / "train/B/bass.wav"
    soundfile.write(bass, soundfile.read(bass)[0], 44100)
    with pytest.raises(DataError, match=r"bass\.wav: has 44100 Hz.*48000 Hz"):
        module(tmp_path, "fit")
