"""The demo corpus: layout, audio of each stem, reproducibility and atomic writing."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from datamodules.demo import corpus as demo
from datamodules.demo.__main__ import main
from datamodules.demo.drums import FAMILIES, Kit, draw_kit, play_drums
from datamodules.demo.effects import active_rms, limiting_gain
from datamodules.demo.instruments import (
    BASSES,
    CHORD_INSTRUMENTS,
    Timbre,
    play_bass,
    play_chords,
    play_lead,
)
from datamodules.demo.mix import render_track
from datamodules.demo.songs import Plan, compose_melody
from datamodules.demo.styles import Song, draw_song
from datamodules.demo.synthesis import SAMPLE_RATE, Note
from datamodules.demo.voice import CONSONANTS, VOWELS, Voice, sing
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS

NUMBERS = (0, 8, 16)
FILES = ("mixture", *STEMS)

pytestmark = pytest.mark.xdist_group("demo corpus")  # they share a rendering
slow = pytest.mark.slow
Samples = npt.NDArray[np.int16]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.demo_corpus(tmp_path_factory.mktemp("corpus") / "demo", numbers=NUMBERS)


@pytest.fixture(scope="module", params=NUMBERS)
def track(corpus: Path, request: pytest.FixtureRequest) -> dict[str, Samples]:
    folder = corpus / demo.track_folder(request.param)
    return {name: soundfile.read(folder / f"{name}.wav", dtype="int16")[0] for name in FILES}


def spectrum(sound: Samples) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Frequencies in Hz and shares of the power there."""
    mono = sound[: 20 * SAMPLE_RATE].mean(axis=1)
    power = np.square(np.abs(np.fft.rfft(mono)), dtype=np.float64)
    return np.arange(len(power)) * SAMPLE_RATE / len(mono), power / power.sum()


def seconds_levels(sound: Samples) -> npt.NDArray[np.float64]:
    """Root mean square of each whole second, full scale 1."""
    whole = len(sound) // SAMPLE_RATE
    seconds = sound[: whole * SAMPLE_RATE].reshape(whole, -1) / 32768
    return np.asarray(np.sqrt(np.mean(seconds**2, axis=1)))


def draw_songs(count: int) -> list[Song]:
    return [draw_song(np.random.default_rng(seed)) for seed in range(count)]


def test_18_songs_and_more() -> None:
    subsets = Counter(demo.track_folder(number).split("/")[0] for number in range(40))
    assert subsets == {"train": 37, "test": 3}
    assert len({demo.track_folder(number) for number in range(40)}) == 40
    assert {demo.track_folder(number).split("/")[1] for number in range(18)} == set(demo.SONGS)
    assert len(demo.VALIDATION_TRACKS) == 3
    assert set(demo.SONGS[:15]).issuperset(demo.VALIDATION_TRACKS)


def test_songs_are_20_to_30_seconds_long_and_differ() -> None:
    songs = draw_songs(100)
    assert all(20 <= song.length_seconds <= 30 for song in songs)
    tempos = [song.tempo_bpm for song in songs]
    assert min(tempos) < 70
    assert max(tempos) > 165
    assert len({song.tonic for song in songs}) == 12
    assert len({song.groove for song in songs}) > 12
    assert {name for song in songs for name, _ in song.basses} == set(BASSES)
    assert {part.instrument for song in songs for part in song.other} >= set(CHORD_INSTRUMENTS)


def test_sections_cover_the_song_and_stems_rest() -> None:
    rests = Counter[str]()
    for song in draw_songs(100):
        assert song.sections[0].first == 0
        for section, following in zip(song.sections, song.sections[1:], strict=False):
            assert section.first < section.end == following.first
        for stem in STEMS:
            played = sum(s.end - s.first for s in song.sections if stem in s.playing)
            assert 0.3 * song.bars <= played
            rests[stem] += played < song.bars
    assert rests["vocals"] > 60  # of 100 songs
    assert all(20 < rests[stem] < 80 for stem in ("drums", "bass", "other"))


def test_voices_reach_from_bass_to_soprano() -> None:
    pitches = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        lead, second = compose_melody(Plan(draw_song(generator), generator))
        assert [note.start_seconds for note in lead] == sorted(note.start_seconds for note in lead)
        assert len(second) <= len(lead)
        pitches.append(float(np.median([note.pitch for note in lead])))
    assert min(pitches) < 48  # 131 Hz
    assert max(pitches) > 62


@slow
def test_layout_and_format(corpus: Path) -> None:
    for number in NUMBERS:
        folder = corpus / demo.track_folder(number)
        assert {path.name for path in folder.iterdir()} == {f"{name}.wav" for name in FILES}
        formats = [soundfile.info(folder / f"{name}.wav") for name in FILES]
        assert {(i.samplerate, i.channels, i.subtype, i.format) for i in formats} == {
            (44_100, 2, "PCM_16", "WAV")
        }
        assert len({info.frames for info in formats}) == 1
        assert 20 <= formats[0].duration <= 30
    # No temporary files are left, inside or beside the corpus.
    assert {path.name for path in corpus.iterdir()} == {"train", "test", "manifest.json"}
    assert list(corpus.parent.iterdir()) == [corpus]


@slow
def test_mixture_is_the_exact_sum_and_does_not_clip(track: dict[str, Samples]) -> None:
    total = sum(track[stem].astype(np.int64) for stem in STEMS)
    np.testing.assert_array_equal(track["mixture"], total)
    for sound in track.values():
        assert 300 < np.abs(sound.astype(np.int64)).max() <= 0.951 * 32767


@slow
def test_another_seed_gives_other_audio(corpus: Path) -> None:
    folder = corpus / demo.track_folder(NUMBERS[0])
    for stem, sound in render_track(1, NUMBERS[0]).items():
        first = soundfile.read(folder / f"{stem}.wav", dtype="int16")[0]
        assert not np.array_equal(sound, first)


@slow
def test_stems_play_and_vocals_pause(track: dict[str, Samples]) -> None:
    level = 0.01 * np.std(track["mixture"]) / 32768
    shares = {stem: np.mean(seconds_levels(track[stem]) > level) for stem in STEMS}
    assert all(share > 0.3 for share in shares.values())
    assert shares["vocals"] < 1


@slow
def test_songs_differ_in_loudness_and_balance(corpus: Path) -> None:
    levels = np.array(
        [
            [
                20 * np.log10(np.std(soundfile.read(file, dtype="int16")[0]))
                for name in FILES
                for file in [corpus / demo.track_folder(number) / f"{name}.wav"]
            ]
            for number in NUMBERS
        ]
    )
    assert np.ptp(levels[:, 0]) > 2  # mixtures
    assert (np.ptp(levels[:, 1:] - levels[:, :1], axis=0) > 2).all()


@slow
def test_spectra_of_stems(track: dict[str, Samples]) -> None:
    frequency_hz, bass = spectrum(track["bass"])
    assert bass[frequency_hz < 400].sum() > 0.7
    assert 30 < np.sum(frequency_hz * bass) < 600
    _, vocals = spectrum(track["vocals"])
    assert vocals[(frequency_hz > 80) & (frequency_hz < 4500)].sum() > 0.85
    _, drums = spectrum(track["drums"])
    assert drums[frequency_hz < 150].sum() > 0.1


@slow
def test_stems_are_stereo(track: dict[str, Samples]) -> None:
    for stem in ("vocals", "drums", "other"):
        left, right = track[stem].astype(float).T
        assert 0.001 < np.mean((left - right) ** 2) / np.mean((left + right) ** 2) < 2


@slow
def test_an_intact_corpus_is_kept(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "ProcessPoolExecutor", None)  # a call would raise
    assert demo.demo_corpus(corpus, numbers=NUMBERS) == corpus


@slow
def test_a_damaged_track_is_rendered_identically(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, intact = (corpus / demo.track_folder(number) for number in NUMBERS[:2])
    file = damaged / "bass.wav"
    before, untouched = file.read_bytes(), (intact / "bass.wav").stat()
    flipped = bytearray(before)
    flipped[len(flipped) // 2] ^= 1
    file.write_bytes(flipped)
    (damaged / "drums.wav").unlink()
    with caplog.at_level(logging.WARNING):
        demo.demo_corpus(corpus, numbers=NUMBERS)
    assert len(caplog.records) == 1
    assert damaged.name in caplog.text
    assert file.read_bytes() == before
    assert (intact / "bass.wav").stat().st_ino == untouched.st_ino
    assert {path.name for path in damaged.iterdir()} == {f"{name}.wav" for name in FILES}
    assert list(corpus.parent.iterdir()) == [corpus]


@slow
def test_manifest_lists_every_file(corpus: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert (manifest["version"], manifest["seed"]) == (demo.VERSION, 0)
    files = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.wav")}
    assert set(manifest["sha256"]) == files


@pytest.mark.parametrize("instrument", [name for name in CHORD_INSTRUMENTS if name != "bells"])
def test_pitch_of_chord_instruments(instrument: str) -> None:
    note = Note(0.1, 0.6, 69, 0.8)  # 440 Hz
    sound = play_chords([note], instrument, SAMPLE_RATE, 0.0, np.random.default_rng(0))
    assert sound.shape == (SAMPLE_RATE, 2)
    assert np.isfinite(sound).all()
    assert np.abs(sound[: SAMPLE_RATE // 20]).max() < 1e-6
    power = np.abs(np.fft.rfft(sound.mean(1))) ** 2  # bins of 1 Hz
    harmonics = sum(power[220 * n - 12 : 220 * n + 13].sum() for n in range(1, 60))
    assert harmonics / power.sum() > 0.5
    assert power[425:456].sum() > power[460:640].sum()


@pytest.mark.parametrize("name", BASSES)
def test_pitch_of_basses(name: str) -> None:
    note = Note(0.1, 0.6, 33, 0.8)  # 55 Hz
    sound = play_bass([note], name, SAMPLE_RATE, np.random.default_rng(0))
    assert sound.shape == (SAMPLE_RATE,)
    power = np.abs(np.fft.rfft(sound)) ** 2
    harmonics = sum(power[55 * n - 6 : 55 * n + 7].sum() for n in range(1, 30))
    assert harmonics / power.sum() > 0.7


def test_clap_adds_noise_to_the_snare() -> None:
    stroke = [Note(0.0, 0.1, sound="snare")]
    snare, clapped = (
        play_drums(stroke, Kit(clap=clap), SAMPLE_RATE, np.random.default_rng(0))[:, 0]
        for clap in (0.0, 1.0)
    )
    difference = np.abs(np.fft.rfft(clapped - snare)) ** 2
    assert difference[900:2600].sum() > 0.6 * difference.sum()


def test_a_lead_glides_between_its_notes() -> None:
    notes = [Note(0.0, 0.4, 69, 0.8), Note(0.4, 0.5, 71, 0.8)]
    sound = play_lead(notes, SAMPLE_RATE, 0.0, Timbre(), 5.0)
    assert sound.shape == (SAMPLE_RATE, 2)
    power = np.abs(np.fft.rfft(sound[: int(0.4 * SAMPLE_RATE)].mean(1))) ** 2  # bins of 2.5 Hz
    assert np.argmax(power) * 2.5 == pytest.approx(440, abs=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_kits_play_all_drums(family: str) -> None:
    generator = np.random.default_rng(0)
    kit = draw_kit(family, generator)
    drums = ["kick", "snare", "hat", "open", "ride", "crash", "high", "middle", "low", "conga"]
    for drum in (*drums, "slap", "block", "shaker"):
        sound = play_drums([Note(0.0, 0.1, sound=drum)], kit, 4410, generator)
        assert 0.005 < np.abs(sound).max() < 3


def test_a_machine_repeats_its_strokes_and_a_drummer_does_not() -> None:
    strokes = [Note(1.0 * beat, 0.1, sound="snare") for beat in range(8)]
    for variants, sounds in ((1, 1), (5, 3)):
        track = play_drums(
            strokes, Kit(variants=variants), 8 * SAMPLE_RATE, np.random.default_rng(0)
        )
        beats = {beat[:4000].tobytes() for beat in np.split(track, 8)}
        assert len(beats) == 1 if sounds == 1 else len(beats) >= sounds


@pytest.mark.parametrize("consonant", CONSONANTS)
def test_syllables_can_be_sung(consonant: str) -> None:
    note = Note(0.2, 0.3, 45, 0.8, f"{consonant}{VOWELS[0]}{consonant}")
    sound = sing([note], Voice(1.0, 45), SAMPLE_RATE, np.random.default_rng(0))
    assert sound.shape == (SAMPLE_RATE,)
    assert np.isfinite(sound).all()
    assert np.std(sound[SAMPLE_RATE // 4 : SAMPLE_RATE // 2]) > 0.05
    assert np.std(sound[: SAMPLE_RATE // 20]) < 1e-3


def test_chest_voice_has_a_strong_fundamental() -> None:
    note = Note(0.0, 1.0, 45, 0.8, "a")  # 110 Hz
    shares = []
    for chest in (0.0, 1.5):
        voice = Voice(1.0, 45, vibrato_cents=0, chest=chest)
        power = np.abs(np.fft.rfft(sing([note], voice, SAMPLE_RATE, np.random.default_rng(0)))) ** 2
        shares.append(power[90:130].sum() / power.sum())
    assert shares[0] < 0.1 < 0.3 < shares[1]


def test_limited_peaks_stay_below_the_ceiling() -> None:
    generator = np.random.default_rng(0)
    peaks = np.abs(generator.standard_normal(SAMPLE_RATE)) ** 3
    gain = limiting_gain(peaks, 0.5)
    assert gain.shape == (SAMPLE_RATE, 1)
    assert (gain[:, 0] * peaks).max() <= 0.5
    assert (limiting_gain(peaks, 1e6) == 1).all()


def test_active_level_ignores_rests() -> None:
    sound = np.zeros((SAMPLE_RATE, 2))
    assert active_rms(sound) == 0
    sound[: SAMPLE_RATE // 10] = 0.5
    assert active_rms(sound) == 0.5


@pytest.fixture
def quick_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders tracks of five samples in threads of this process."""

    def write_track(seed: int, number: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in FILES:
            soundfile.write(folder / f"{name}.wav", np.full((5, 2), 0.1), SAMPLE_RATE)

    monkeypatch.setattr(demo, "write_track", write_track)
    monkeypatch.setattr(
        demo, "ProcessPoolExecutor", lambda workers, *rest: ThreadPoolExecutor(workers)
    )


@pytest.mark.usefixtures("quick_rendering")
def test_folders_of_killed_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".demo-old", ".demo-young", "demo-other"))
    for folder in (old, young, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    demo.demo_corpus(tmp_path / "demo", numbers=[3])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo-young", "demo", "demo-other"]


@pytest.mark.usefixtures("quick_rendering")
def test_an_interrupted_rendering_keeps_finished_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.demo_corpus(tmp_path / "demo", numbers=[3])

    def failing(seed: int, number: int, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_track", failing)
    with pytest.raises(KeyboardInterrupt):
        demo.demo_corpus(tmp_path / "demo", numbers=[3, 4])
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    tracks = {file.parent for file in (tmp_path / "demo").rglob("*.wav")}
    assert tracks == {tmp_path / "demo" / demo.track_folder(3)}


def test_disk_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours").mkdir()

    def failing(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="input/output error"):
        demo.publish_track(tmp_path / "ours", tmp_path / "train" / "song", tmp_path / "discarded")


def test_two_processes_may_publish_the_same_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bass.wav").write_text(name)
    target = tmp_path / "train" / "song"
    target.mkdir(parents=True)
    replace = os.replace
    calls = []

    def interrupted(source: Path, destination: Path) -> None:
        replace(source, destination)
        calls.append(source)
        if len(calls) == 1:  # another process publishes between the two moves
            replace(tmp_path / "theirs", target)

    monkeypatch.setattr(os, "replace", interrupted)
    demo.publish_track(tmp_path / "ours", target, tmp_path / "discarded" / "song")
    assert (target / "bass.wav").read_text() == "theirs"


def test_cache_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", "/a")
    assert demo.default_root() == Path("/a/demo-v2")
    monkeypatch.delenv("STEMLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert demo.default_root() == Path("/b/stemlab/demo-v2")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.default_root() == Path.home() / ".cache/stemlab/demo-v2"
    assert demo.default_root(seed=7) != demo.default_root()


def test_command_prints_only_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "datamodules.demo.corpus.demo_corpus",
        lambda root, seed, numbers: root / f"{len(numbers)} songs of seed {seed}",
    )
    assert main(["somewhere", "--seed", "3", "--songs", "500"]) == 0
    assert main(["somewhere"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["somewhere/500 songs of seed 3", "somewhere/18 songs of seed 0"]


def test_a_folder_of_another_corpus_is_refused(tmp_path: Path) -> None:
    manifest = {"version": 1, "seed": 0, "sha256": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="version 1 and seed 0, expected version 2 and seed 0"):
        demo.demo_corpus(tmp_path, numbers=[3])


def test_a_full_disk_is_noticed_before_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "ProcessPoolExecutor", None)  # a call would raise
    monkeypatch.setattr(demo, "_TRACK_BYTES", 10**18)
    with pytest.raises(DataError, match=r"3 songs need at least 3,000,000,000,000\.0 MB"):
        demo.demo_corpus(tmp_path / "demo", numbers=range(3))


@pytest.mark.slow
def test_rendering_needs_no_torch() -> None:
    check = "import sys, datamodules.demo.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
