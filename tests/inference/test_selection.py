"""Stems and the rest of the song, for all kinds of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from lightning_modules.architectures.ensemble import Ensemble
from lightning_modules.inference.encoding import Encoding
from lightning_modules.inference.selection import Selection
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.separators import Gains

FOUR = ["vocals", "drums", "bass", "other"]
SIX = [*FOUR, "guitar", "piano"]
INSTRUMENTAL = Selection(instrumental=True)


def estimates(sources: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Estimates by name and as an array, and a mixture that they do not add up to."""
    random = np.random.default_rng(0)
    parts = random.normal(size=(len(sources), 2, 100)).astype(np.float32)
    mixture = random.normal(size=(2, 100)).astype(np.float32)
    return dict(zip(sources, parts, strict=True)), parts, mixture


@pytest.mark.parametrize("sources", [["vocals"], ["vocals", "other"], FOUR, SIX])
def test_rest_is_the_mixture_minus_the_stem(sources: list[str]) -> None:
    by_name, parts, mixture = estimates(sources)
    for selection, names in (
        (Selection(two_stems="vocals"), ["vocals", "no_vocals"]),
        (INSTRUMENTAL, ["vocals", "instrumental"]),
    ):
        assert selection.names(sources) == names
        assert selection.needs_mixture(sources)
        stem, rest = selection.take(parts, sources, mixture)
        assert np.array_equal(stem, by_name["vocals"])
        assert np.array_equal(rest, mixture - by_name["vocals"])


def test_other_methods() -> None:
    by_name, parts, mixture = estimates(FOUR)
    add = Selection(two_stems="bass", other_method="add", residual=True)
    assert add.names(FOUR) == ["bass", "no_bass", "residual"]
    stem, rest, residual = add.take(parts, FOUR, mixture)
    assert np.array_equal(stem, by_name["bass"])
    assert np.allclose(rest, by_name["vocals"] + by_name["drums"] + by_name["other"])
    assert np.allclose(stem + rest + residual, mixture, atol=1e-6)
    none = Selection(two_stems="bass", other_method="none")
    assert none.names(FOUR) == ["bass"]
    assert not none.needs_mixture(FOUR)
    assert np.array_equal(none.take(parts, FOUR, None), by_name["bass"][None])


@pytest.mark.parametrize("name", ["instrumental", "Instrumental", "accompaniment"])
def test_models_with_an_instrumental_of_their_own(name: str) -> None:
    both = ["Vocals", name]
    _, parts, mixture = estimates(both)
    assert INSTRUMENTAL.names(both) == ["vocals", "instrumental"]
    assert not INSTRUMENTAL.needs_mixture(both)
    assert np.array_equal(INSTRUMENTAL.take(parts, both, None), parts)
    assert INSTRUMENTAL.names([name]) == ["instrumental", "vocals"]
    found = INSTRUMENTAL.take(parts[:1], [name], mixture)
    assert np.array_equal(found, [parts[0], mixture - parts[0]])


@pytest.mark.parametrize(
    ("selection", "sources", "words"),
    [
        ({"two_stems": "drums"}, ["vocals"], "no stem 'drums': give some of vocals"),
        ({"two_stems": "instrumental"}, ["vocals"], "--instrumental writes vocals and the rest"),
        ({"instrumental": True}, ["drums", "bass"], "has no vocals, its stems are drums, bass"),
        ({"two_stems": "vocals", "other_method": "add"}, ["vocals"], "no stem besides vocals"),
        ({"two_stems": "vocals", "residual": True}, FOUR, "no_vocals is already all"),
        ({"two_stems": "vocals", "instrumental": True}, FOUR, "--two-stems and --instrumental"),
        ({"other_method": "add"}, FOUR, "--other-method add: is about the rest"),
        ({"stems": ["vocals"], "other_method": "none"}, FOUR, "--other-method none"),
    ],
)
def test_mistakes(selection: dict[str, Any], sources: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Selection(**selection).names(sources)


@pytest.mark.parametrize(
    ("rate", "channels", "form", "bits"),
    [(44100, 2, "wav", 16), (48000, 1, "flac", 24), (44100, 2, "flac", 16), (48000, 2, "wav", 24)],
)
@pytest.mark.parametrize("kind", ["same", "mono at half the rate", "ensemble"])
def test_integers_add_up_to_the_song_exactly(
    kind: str, rate: int, channels: int, form: str, bits: int, tmp_path: Path
) -> None:
    """The rest has rate and channels of the song, whatever the model's are."""
    settings: dict[str, Any] = {"segment_seconds": 0.1, "gain": 0.7}
    model: Any = Gains(["vocals"], **settings)
    if kind == "mono at half the rate":
        model = Gains(["vocals"], **settings, sample_rate=22050, audio_channels=1)
    elif kind == "ensemble":
        model = Ensemble([model, Gains(FOUR, 0.1, segment_seconds=0.05)])
    song = np.random.default_rng(0).integers(-20000, 20000, (15_001, channels), np.int16)
    song[:3] = -32768
    soundfile.write(tmp_path / "song.wav", song, rate)
    encoding = Encoding(form, bits)
    done = separate_file(
        model, tmp_path / "song.wav", tmp_path, selection=INSTRUMENTAL, encoding=encoding
    )
    assert done.gain == 1
    stems = [
        soundfile.read(tmp_path / f"{name}.{form}", dtype="int32", always_2d=True)
        for name in ("vocals", "instrumental")
    ]
    assert [found for _, found in stems] == [rate, rate]
    assert np.abs(stems[0][0]).max() > 0.3 * 2**31
    total = stems[0][0].astype(np.int64) + stems[1][0]
    assert np.array_equal(total, song.astype(np.int64) << 16)


@pytest.mark.parametrize("bits", [16, 32])
def test_loud_rest(bits: int, tmp_path: Path) -> None:
    """Polarity errors make the rest louder than the song; both are then turned down."""
    song = np.random.default_rng(0).uniform(-0.9, 0.9, (5000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", song, 44100, "FLOAT")
    done = separate_file(
        Gains(["vocals"], -0.5), tmp_path / "song.wav", tmp_path,
        selection=Selection(two_stems="vocals"), encoding=Encoding("wav", bits),
    )  # fmt: skip
    stem, rest = (
        soundfile.read(tmp_path / f"{name}.wav", dtype="float32")[0]
        for name in ("vocals", "no_vocals")
    )
    assert (done.gain < 1) == (bits == 16)
    tolerance = 2**-15 if bits == 16 else 1e-7
    assert np.abs(stem + rest - done.gain * song).max() <= 1.5 * tolerance
