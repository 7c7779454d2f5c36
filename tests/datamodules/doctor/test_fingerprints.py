"""Fingerprints detect copies of a recording and tell different songs apart."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.doctor.fingerprints import SAME, Fingerprint, Fingerprinter, find_same
from datamodules.files.audio import Audio
from tests.helpers.melodies import RATE, melody


def fingerprint(audio: Audio, rate: int = RATE, block: int | None = None) -> Fingerprint:
    fingerprinter = Fingerprinter(rate)
    block = block or rate
    for start in range(0, audio.shape[1], block):
        fingerprinter.add(audio[:, start : start + block])
    return fingerprinter.fingerprint()


def similarity(one: Fingerprint, other: Fingerprint) -> tuple[float, float]:
    (pair,) = find_same([one, other], threshold=-1)
    return pair.correlation, pair.shift_seconds


def test_a_fingerprint_does_not_depend_on_blocks() -> None:
    whole = fingerprint(melody(0), block=10**6)
    assert whole.shape == (20, 149)
    for block in (777, 1600, RATE):
        np.testing.assert_allclose(fingerprint(melody(0), block=block), whole, atol=1e-4)


def test_shifted_copies_are_found_at_their_shift() -> None:
    correlation, shift = similarity(fingerprint(melody(0)), fingerprint(melody(0)))
    assert correlation == pytest.approx(1, abs=1e-5)
    assert shift == 0
    later = np.pad(melody(0), ((0, 0), (round(3.2 * RATE), 0)))
    correlation, shift = similarity(fingerprint(melody(0)), fingerprint(later))
    assert correlation > 0.95
    assert shift == 3.2
    assert similarity(fingerprint(later), fingerprint(melody(0)))[1] == -3.2


@pytest.mark.parametrize(
    "change",
    [
        lambda audio: 0.01 * audio,
        lambda audio: -audio[:1],
        lambda audio: audio[:, round(0.25 * audio.shape[1]) + 405 :],  # by half a frame
        lambda audio: np.clip(2 * audio, -0.15, 0.15),
        lambda audio: audio + 0.01 * np.random.default_rng(9).standard_normal(audio.shape),
    ],
    ids=["softer", "inverted mono", "cut", "clipped", "noisy"],
)
def test_processed_copies_match(change: Callable[[Audio], Audio]) -> None:
    copy = fingerprint(change(melody(0)).astype(np.float32))
    assert similarity(fingerprint(melody(0)), copy)[0] > SAME + 0.1


def test_different_songs_on_the_same_beat_do_not_match() -> None:
    fingerprints = [fingerprint(melody(seed)) for seed in range(12)]
    assert find_same(fingerprints) == []
    assert find_same([*fingerprints, fingerprint(0.1 * melody(7))])[0][:2] == (7, 12)
    assert max(pair.correlation for pair in find_same(fingerprints, threshold=-1)) < SAME - 0.1


def test_silence_and_short_sounds_match_nothing() -> None:
    silence = fingerprint(np.zeros((2, 10 * RATE), np.float32))
    blip = fingerprint(melody(0)[:, :100])
    assert silence.shape == blip.shape == (20, 0)
    assert find_same([silence, silence, blip, blip]) == []
    assert find_same([]) == []
    # Silence at the same places is not a match.
    padded = [np.pad(melody(seed), ((0, 0), (20 * RATE, 20 * RATE))) for seed in range(2)]
    assert find_same([fingerprint(audio) for audio in padded]) == []


def test_fingerprints_at_any_sample_rate() -> None:
    for rate in (500, 4000, 11025):
        assert fingerprint(melody(0), rate).shape[0] == 20


def test_more_tracks_than_fit_in_one_tile() -> None:
    fingerprints = [fingerprint(melody(seed, 2)) for seed in range(70)]
    for number in (3, 66, 69):
        fingerprints.append(fingerprints[number])
    found = [pair[:2] for pair in find_same(fingerprints, threshold=0.99)]
    assert found == [(3, 70), (66, 71), (69, 72)]


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_encoded_shifted_and_equalised_copies_of_real_songs_match(tmp_path: Path) -> None:
    songs = sorted((Path(os.environ["STEMLAB_TEST_DATA"]) / "music").glob("*/*/mixture.flac"))
    fingerprints = []
    for path in songs:
        audio, rate = soundfile.read(path, dtype="float32")
        fingerprints.append(fingerprint(audio.T, rate))
    different = find_same(fingerprints, threshold=-1)
    assert len(different) == 10
    assert max(pair.correlation for pair in different) < 0.3
    changes = [
        (".mp3", ["-ss", "3.07", "-b:a", "64k", "-af", "volume=-12dB"]),
        (
            ".m4a",
            ["-t", "30", "-b:a", "96k", "-af", "adelay=550|550,equalizer=f=2500:t=o:w=1:g=-6"],
        ),
        (".ogg", ["-ss", "30.02", "-c:a", "libvorbis", "-q:a", "0", "-ac", "1"]),
    ]
    for number, (suffix, options) in enumerate(changes):
        path = tmp_path / f"copy{suffix}"
        command = [
            "ffmpeg",
            "-nostdin",
            "-v",
            "error",
            "-i",
            str(songs[number]),
            *options,
            str(path),
        ]
        subprocess.run(command, check=True)
        wav = tmp_path / "copy.wav"
        subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", path, wav], check=True)
        audio, rate = soundfile.read(wav, dtype="float32", always_2d=True)
        (pair,) = find_same([*fingerprints, fingerprint(audio.T, rate)])
        assert (pair.first, pair.second) == (number, 5)
        assert pair.correlation > 0.6
