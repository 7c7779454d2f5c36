"""Measurements of audio with known values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.doctor.measurements import TrackMeasures, clipped_samples, measure
from datamodules.errors import DataError
from datamodules.files.audio import Audio
from datamodules.tracks import index
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS

RATE = 8000
SECONDS = 4
TOP = 32767 / 32768


def noise(seed: int, scale: float = 0.05) -> Audio:
    random = np.random.default_rng(seed)
    return (scale * random.standard_normal((2, SECONDS * RATE + 100))).astype(np.float32)


def measured(root: Path, **files: Audio) -> TrackMeasures:
    """Measure a track of noise with some files replaced."""
    folder = root / "train" / "A"
    folder.mkdir(parents=True)
    stems = {stem: files.get(stem, noise(number)) for number, stem in enumerate(STEMS)}
    for name, audio in (stems | files).items():
        soundfile.write(folder / f"{name}.wav", audio.T, RATE, subtype="FLOAT")
    (track,) = index_tracks(root, "train", progress=False)
    return measure(track)


def stems_sum() -> Audio:
    total: Audio = np.sum([noise(number) for number in range(4)], axis=0)
    return total


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def test_levels_and_dc(tmp_path: Path) -> None:
    square = np.tile(np.array([0.5, -0.5], np.float32), (2, (SECONDS * RATE + 100) // 2))
    shifted = square + np.array([[0.0], [-0.02]], np.float32)
    files = measured(tmp_path, vocals=square, drums=shifted, bass=2.5 * square).files
    assert tuple(files) == STEMS
    assert files["vocals"].rms_db == pytest.approx(-6.0206, abs=1e-3)
    assert files["vocals"].peak_db == pytest.approx(-6.0206, abs=1e-3)
    assert files["vocals"].dc_offset == pytest.approx(0, abs=1e-6)
    assert files["vocals"].channels_equal
    assert files["drums"].dc_offset == pytest.approx(-0.02, abs=1e-5)
    assert not files["drums"].channels_equal
    assert files["bass"].peak_db == pytest.approx(1.9382, abs=1e-3)
    noise_db = 20 * np.log10(np.sqrt(np.mean(noise(3).astype(np.float64) ** 2)))
    assert files["other"].rms_db == pytest.approx(noise_db, abs=1e-3)


def test_silent_share_counts_seconds(tmp_path: Path) -> None:
    silence = np.zeros_like(noise(0))
    some = noise(1)
    some[:, RATE : 3 * RATE] *= 0.001  # -86 dBFS
    files = measured(tmp_path, vocals=silence, drums=some, bass=0.001 * noise(2)).files
    assert (files["vocals"].rms_db, files["vocals"].silent_share) == (-np.inf, 1)
    assert files["drums"].silent_share == pytest.approx(2 / 5)  # the fifth is 100 samples
    assert files["bass"].silent_share == 1
    assert files["other"].silent_share == 0


def test_clipping_counts_runs_of_three(tmp_path: Path) -> None:
    def count(*values: float) -> int:
        return clipped_samples(np.array([values, [0] * len(values)], np.float32))

    assert count(0, TOP, TOP, 0, TOP) == 0
    assert count(0, TOP, TOP, TOP, 0) == 3
    assert count(TOP, TOP, TOP, TOP, -TOP, -1, -1, -1, 0) == 7
    assert count(1.2, 1.1, 1.3, 1.2) == 0, "loud, but not clipped"
    assert count(1.1, 1.1, 1.1, 0.5, 0.5, 0.5) == 3
    clipped = np.clip(20 * noise(0), -1, 1)
    files = measured(tmp_path, vocals=clipped).files
    assert files["vocals"].clipped_share == pytest.approx(
        clipped_samples(clipped) / clipped.size, abs=2e-3
    )
    assert files["vocals"].clipped_share > 0.01
    assert files["drums"].clipped_share == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_located_and_measured_as_zero(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "find_non_finite", lambda *_: [])  # otherwise the index raises
    bad = noise(0)
    bad[1, 2 * RATE + 5 :: 100] = value
    file = measured(tmp_path, vocals=bad).files["vocals"]
    assert file.first_nonfinite == 2 * RATE + 5
    assert file.rms_db == pytest.approx(-26, abs=0.1)


def test_huge_finite_samples_are_not_nan(tmp_path: Path) -> None:
    measures = measured(tmp_path, vocals=np.full_like(noise(0), 1e30))
    assert measures.files["vocals"].first_nonfinite is None
    assert measures.files["vocals"].peak_db == pytest.approx(600)
    assert measures.fingerprint.shape[1] == 0


def test_mixture_is_compared_per_channel(tmp_path: Path) -> None:
    mixture = stems_sum()
    mixture[0] = noise(9)[0]  # different audio on the left
    mixture[1] *= 0.5
    compared = measured(tmp_path, mixture=mixture).mixture
    assert compared is not None
    # Independent signals: (|m|^2 + |s|^2) / |m|^2, with four stems in the sum.
    assert compared.error_db[0] == pytest.approx(10 * np.log10(5), abs=0.2)
    assert compared.error_after_gain_db[0] == pytest.approx(0, abs=0.1)
    assert compared.error_db[1] == pytest.approx(0, abs=1e-3)  # the half that is missing
    assert compared.gain[1] == pytest.approx(0.5, abs=1e-4)
    assert compared.error_after_gain_db[1] < -50


def test_exact_and_silent_mixtures(tmp_path: Path) -> None:
    exact = measured(tmp_path / "1", mixture=stems_sum()).mixture
    assert exact is not None
    assert max(exact.error_db) < -120
    silence = np.zeros_like(noise(0))
    nothing = measured(tmp_path / "2", mixture=silence, **dict.fromkeys(STEMS, silence)).mixture
    assert nothing is not None
    assert nothing.error_db == (-np.inf, -np.inf)
    assert nothing.gain == (1, 1)
    assert measured(tmp_path / "3").mixture is None


def test_truncated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.files import audio

    whole = audio.blocks

    def cut(path: Path, block_samples: int) -> list[Audio]:
        found = list(whole(path, block_samples))
        return found[:2] if path.stem == "bass" else found

    monkeypatch.setattr(audio, "blocks", cut)
    with pytest.raises(DataError, match=r"bass\.wav: damaged: .* 32100 samples, .* ends at 2\.00"):
        measured(tmp_path)
