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
from datamodules.demo.instruments import Kit, play_bass, play_chords, play_drums
from datamodules.demo.songs import Plan, Song
from datamodules.demo.synthesis import SAMPLE_RATE, Note
from datamodules.tracks.layouts import STEMS

NUMBERS = (11, 16)  # two of the shortest, one of each subset
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


def test_18_songs_differ_in_style() -> None:
    subsets = Counter(demo.track_folder(number).split("/")[0] for number in range(len(demo.SONGS)))
    assert subsets == {"train": 15, "test": 3}
    assert len({song.name for song in demo.SONGS}) == 18
    train = {song.name for song in demo.SONGS[:15]}
    assert len(demo.VALIDATION_TRACKS) == 3
    assert train.issuperset(demo.VALIDATION_TRACKS)
    traits = [(s.tempo_bpm, s.tonic, s.mode, s.progression, s.groove, s.other) for s in demo.SONGS]
    assert len(set(traits)) == 18


@pytest.mark.parametrize("song", demo.SONGS, ids=lambda song: song.name)
def test_songs_are_20_to_30_seconds_long(song: Song) -> None:
    plan = Plan(song)
    assert 20 <= plan.seconds(song.bars * plan.steps) + demo.TAIL_SECONDS <= 30
    assert 80 <= song.tempo_bpm <= 150


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
        assert 3000 < np.abs(sound.astype(np.int64)).max() < 30_000


@slow
def test_another_seed_gives_other_audio(corpus: Path) -> None:
    folder = corpus / demo.track_folder(NUMBERS[0])
    for stem, sound in demo.render_track(1, NUMBERS[0]).items():
        first = soundfile.read(folder / f"{stem}.wav", dtype="int16")[0]
        assert not np.array_equal(sound, first)


@slow
def test_vocals_pause_and_other_stems_play(track: dict[str, Samples]) -> None:
    sung = seconds_levels(track["vocals"]) > 0.003
    assert 4 <= np.sum(~sung) <= 0.5 * len(sung)
    for stem in ("drums", "bass", "other"):
        assert np.mean(seconds_levels(track[stem]) > 0.003) > 0.85


@slow
def test_stems_have_similar_levels(track: dict[str, Samples]) -> None:
    levels = [20 * np.log10(np.std(track[stem])) for stem in STEMS]
    assert max(levels) - min(levels) < 6
    assert levels[0] > np.mean(levels)  # vocals are loud


@slow
def test_spectra_of_stems(track: dict[str, Samples]) -> None:
    frequency_hz, bass = spectrum(track["bass"])
    assert bass[frequency_hz < 400].sum() > 0.75
    assert 30 < np.sum(frequency_hz * bass) < 400
    _, vocals = spectrum(track["vocals"])
    assert vocals[(frequency_hz > 120) & (frequency_hz < 4500)].sum() > 0.85
    _, drums = spectrum(track["drums"])
    # Drums have the most treble and the sharpest onsets.
    assert drums[frequency_hz < 150].sum() > 0.2
    treble = {stem: spectrum(track[stem])[1][frequency_hz > 6000].sum() for stem in STEMS}
    assert max(treble, key=lambda stem: float(treble[stem])) == "drums"
    jumps = {}
    for stem in ("drums", "vocals", "other"):
        frames = track[stem].mean(axis=1)
        frames = frames[: len(frames) // 441 * 441].reshape(-1, 441)  # 10 ms
        energy = np.sqrt(np.mean(frames**2, axis=1))
        jumps[stem] = np.percentile(np.diff(energy), 98) / energy.mean()
    assert max(jumps, key=lambda stem: float(jumps[stem])) == "drums"


@slow
def test_stems_are_stereo(track: dict[str, Samples]) -> None:
    for stem in ("vocals", "drums", "other"):
        left, right = track[stem].astype(float).T
        assert 0.005 < np.mean((left - right) ** 2) / np.mean((left + right) ** 2) < 1


@slow
def test_an_intact_corpus_is_kept(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "ProcessPoolExecutor", None)  # a call would raise
    assert demo.demo_corpus(corpus, numbers=NUMBERS) == corpus


@slow
def test_a_damaged_track_is_rendered_identically(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, intact = (corpus / demo.track_folder(number) for number in NUMBERS)
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


@pytest.mark.parametrize(
    "instrument", ["pad", "electric piano", "organ", "synth", "guitar", "overdriven guitar"]
)
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


@pytest.mark.parametrize("timbre", ["saw", "square", "sub", "fingers"])
def test_pitch_of_basses(timbre: str) -> None:
    note = Note(0.1, 0.6, 33, 0.8)  # 55 Hz
    sound = play_bass([note], timbre, SAMPLE_RATE, np.random.default_rng(0))
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
    assert demo.default_root() == Path("/a/demo-v1")
    monkeypatch.delenv("STEMLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert demo.default_root() == Path("/b/stemlab/demo-v1")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.default_root() == Path.home() / ".cache/stemlab/demo-v1"
    assert demo.default_root(seed=7) != demo.default_root()


def test_command_prints_only_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "datamodules.demo.corpus.demo_corpus", lambda root, seed: root / f"seed {seed}"
    )
    assert main(["somewhere", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "somewhere/seed 3\n"


@pytest.mark.slow
def test_rendering_needs_no_torch() -> None:
    check = "import sys, datamodules.demo.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
