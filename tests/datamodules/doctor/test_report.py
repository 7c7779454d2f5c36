"""The doctor's report: each kind of finding, and no finding on good data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.doctor import report
from datamodules.doctor.__main__ import main
from datamodules.doctor.report import Report, examine
from datamodules.doctor.text import format_report
from datamodules.errors import DataError
from datamodules.files.audio import Audio
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS
from tests.helpers.melodies import RATE, melody

Kinds = dict[tuple[str, str], list[str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def write(path: Path, audio: Audio, subtype: str = "PCM_16", rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype=subtype)
    return path


def write_song(folder: Path, seed: int) -> Path:
    stems = {stem: melody(10 * seed + number) for number, stem in enumerate(STEMS)}
    for stem, audio in stems.items():
        write(folder / f"{stem}.wav", audio)
    total: Audio = np.sum(list(stems.values()), axis=0)
    write(folder / "mixture.wav", total)
    return folder


@pytest.fixture(scope="module")
def good_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for seed, name in enumerate(("train/A", "train/B", "test/C")):
        write_song(root / name, seed)
    return root


@pytest.fixture
def root(good_root: Path, tmp_path: Path) -> Path:
    """Three songs without faults, which tests may corrupt."""
    return Path(shutil.copytree(good_root, tmp_path / "root"))


def kinds(report: Report) -> Kinds:
    """Severity and name of findings -> places relative to the root."""
    found: Kinds = {}
    for each in report.findings:
        where = each.where.removeprefix(f"{report.root}/")
        found.setdefault((each.severity, each.name), []).append(where)
    return found


def only(report: Report, severity: str, name: str, where: str) -> str:
    """Text of the report's only finding."""
    assert kinds(report) == {(severity, name): [where]}
    assert report.exit_code == ("note", "warning", "error").index(severity)
    assert report.findings[0].remedy
    return report.findings[0].finding


def text_of(report: Report, severity: str, name: str) -> str:
    """Text of the only finding of a kind."""
    (finding,) = (
        each for each in report.findings if (each.severity, each.name) == (severity, name)
    )
    return finding.finding


# ----------------------------------------------------------------- good data


@pytest.mark.parametrize("fast", [False, True])
def test_good_data_have_no_findings(root: Path, fast: bool) -> None:
    report = examine(root, fast=fast)
    assert report.findings == []
    assert report.exit_code == 0
    assert [(track.subset, track.name) for track in report.tracks] == [
        ("train", "A"),
        ("train", "B"),
        ("test", "C"),
    ]
    track = report.tracks[0]
    assert (track.seconds, track.sample_rate, track.channels) == (15, RATE, 2)
    assert bool(track.files) is not fast
    if not fast:
        assert track.mixture is not None
        assert max(track.mixture.error_db) < -60  # rounding to 16 bits


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_real_songs_have_two_known_findings() -> None:
    report = examine(Path(os.environ["STEMLAB_TEST_DATA"]) / "music")
    assert kinds(report) == {
        ("warning", "silent-stem"): ["train/Software-Entwicklungskit - Hydrogen/bass.flac"],
        ("note", "faint-stem"): ["test/Software-Entwicklungskit - Caesium/other.flac"],
    }
    # The mixtures are the exact sums.
    assert {error for track in report.tracks for error in track.mixture.error_db} == {-np.inf}  # type: ignore[union-attr]


@pytest.mark.slow
def test_real_stem_files(tmp_path: Path) -> None:
    import stempeg

    (tmp_path / "root" / "train").mkdir(parents=True)
    path = tmp_path / "root" / "train" / "A - B.stem.mp4"
    shutil.copy(stempeg.example_stem_path(), path)
    fast = examine(tmp_path / "root", fast=True)
    assert fast.findings == []
    assert not (tmp_path / "cache" / "decoded").exists()
    report = examine(tmp_path / "root")
    assert examine(tmp_path / "root", fast=True).tracks[0].seconds == report.tracks[0].seconds
    # The mixture of this excerpt went through a limiter.
    assert report.exit_code == 0
    assert kinds(report) == {
        ("note", "over-full-scale"): ["train/A - B.stem.mp4"],
        ("note", "mixture-unlike-sum"): ["train/A - B.stem.mp4"],
    }
    content = path.read_bytes()
    path.write_bytes(content[:-100_000])  # its header is at the start, and intact
    assert examine(tmp_path / "root", fast=True).findings == []
    text = only(examine(tmp_path / "root"), "error", "unreadable", "train/A - B.stem.mp4")
    assert "it is truncated" in text
    path.write_bytes(content[:1000])
    for fast_only in (True, False):
        report = examine(tmp_path / "root", fast=fast_only)
        text = only(report, "error", "unreadable", "train/A - B.stem.mp4")
        assert "is not audio that soundfile or ffmpeg can read" in text


def test_other_stems(tmp_path: Path) -> None:
    write(tmp_path / "own" / "A" / "piano.wav", melody(0))
    write(tmp_path / "own" / "A" / "voice.wav", melody(1))
    assert examine(tmp_path / "own", stems=("voice", "piano")).findings == []


# ------------------------------------------------------------------- headers


def with_nan(audio: Audio) -> Audio:
    audio[1, 9::500] = np.nan
    return audio


def corrupt(root: Path, name: str, change: Callable[[Path], object]) -> tuple[str, str]:
    """Corrupt one file, which `examine`, its fast mode and `index_tracks` must all report."""
    change(root / name)
    report, fast = examine(root), examine(root, fast=True)
    assert report.findings == fast.findings
    (finding,) = report.findings
    with pytest.raises(DataError) as fault:
        index_tracks(root, "train", progress=False)
    assert str(fault.value) == str(finding)
    assert finding.where == str(root / name)
    assert finding.severity == "error"
    return finding.name, finding.finding


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (lambda path: path.write_bytes(b""), "unreadable", "is empty (0 bytes)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "unreadable", "is truncated"),
        (lambda path: path.write_text("text" * 99), "unreadable", "is not audio"),
        (
            lambda path: write(path, melody(0)[:, :-1]),
            "unlike-length",
            "has 119999 samples, but",
        ),
        (lambda path: write(path, melody(0), rate=9000), "unlike-rate", "has 9000 Hz, but vocals"),
        (lambda path: write(path, melody(0)[:1]), "unlike-channels", "has 1 channels, but vocals"),
        (
            lambda path: write(path, with_nan(melody(12)), "FLOAT"),
            "nan",
            "holds NaN or infinity, first at 0.001 s (sample 9)",
        ),
    ],
    ids=["empty", "truncated", "text", "length", "rate", "channels", "nan"],
)
def test_damaged_files(root: Path, change: Callable[[Path], object], name: str, text: str) -> None:
    found = corrupt(root, "train/B/bass.wav", change)
    assert found[0] == name
    assert text in found[1]


def test_missing_stem(root: Path) -> None:
    (root / "test/C/drums.wav").unlink()
    text = only(examine(root), "error", "missing-stem", "test/C")
    assert "no drums.wav" in text
    (root / "test/C/mixture.wav").unlink()
    only(examine(root, missing_as_silence=True), "note", "missing-stem", "test/C")


def test_sample_rates_are_compared_across_the_data_set(root: Path) -> None:
    for path in (root / "test/C").iterdir():
        write(path, soundfile.read(path)[0].T, rate=9000)
    for fast in (True, False):
        text = only(examine(root, fast=fast), "warning", "unlike-rate", "test/C")
        assert "2 of 3 tracks have 8000 Hz" in text


def test_damage_in_the_middle_of_a_file(root: Path) -> None:
    path = root / "train/A/vocals.wav"
    flac = path.with_suffix(".flac")
    write(flac, soundfile.read(path)[0].T)
    path.unlink()
    content = bytearray(flac.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    flac.write_bytes(content)
    assert examine(root, fast=True).findings == []
    text = only(examine(root), "error", "unreadable", "train/A/vocals.flac")
    assert "reports damage" in text


# --------------------------------------------------------------------- audio


def replace_stem(
    root: Path, stem: str, change: Callable[[Audio], Audio], subtype: str = "FLOAT"
) -> None:
    """Change a stem of train/A, and the mixture with it."""
    folder = root / "train" / "A"
    write(folder / f"{stem}.wav", change(melody(STEMS.index(stem))).astype(np.float32), subtype)
    total = np.sum([soundfile.read(folder / f"{name}.wav")[0].T for name in STEMS], axis=0)
    write(folder / "mixture.wav", total, subtype)


def test_silent_and_faint_stems(root: Path) -> None:
    replace_stem(root, "bass", lambda audio: 0 * audio)
    text = only(examine(root), "warning", "silent-stem", "train/A/bass.wav")
    assert "digital silence" in text
    replace_stem(root, "bass", lambda audio: 0.0005 * audio)
    text = only(examine(root), "warning", "silent-stem", "train/A/bass.wav")
    assert "never above -60 dBFS" in text
    replace_stem(root, "bass", lambda audio: 0.05 * audio)
    text = only(examine(root), "note", "faint-stem", "train/A/bass.wav")
    assert "0% of its seconds silent" in text


def test_clipping(root: Path) -> None:
    half = np.random.default_rng(0).standard_normal((2, 15 * RATE // 2)).clip(-1, 1) * (1 - 2**-15)
    replace_stem(root, "drums", lambda audio: np.concatenate([half, -half], 1))  # its mean is 0
    found = kinds(examine(root))
    assert found.pop(("note", "over-full-scale")) == ["train/A"]  # the mixture of it
    assert found == {("warning", "clipping"): ["train/A/drums.wav"]}


def test_a_few_clipped_samples_are_a_note(root: Path) -> None:
    def touch(audio: Audio) -> Audio:
        audio[0, 1000:1010] = 1 - 2**-15
        return audio

    replace_stem(root, "drums", touch)
    text = text_of(examine(root), "note", "clipping")
    assert "0.0042 %" in text


@pytest.mark.parametrize(("offset", "severity"), [(0.005, "note"), (-0.05, "warning")])
def test_dc_offset(root: Path, offset: float, severity: str) -> None:
    replace_stem(root, "other", lambda audio: audio + np.array([[0], [offset]]))
    report = examine(root)
    assert kinds(report) == {(severity, "dc-offset"): ["train/A/other.wav", "train/A/mixture.wav"]}
    assert f"{offset:+.4f} of full scale" in report.findings[0].finding


def test_dual_mono(root: Path) -> None:
    replace_stem(root, "vocals", lambda audio: audio[[0, 0]], "PCM_16")
    text = only(examine(root), "note", "dual-mono", "train/A")
    assert text.endswith("the same in vocals")


def test_mixture_with_a_different_left_channel(root: Path) -> None:
    path = root / "test/C/mixture.wav"
    mixture = soundfile.read(path)[0].T
    mixture[0] = melody(99)[0]
    write(path, mixture)
    text = only(examine(root), "warning", "mixture-unlike-sum", "test/C")
    left, right = (
        float(part.split()[1]) for part in text.partition("difference is ")[2].split(", ")[:2]
    )
    assert left > 0
    assert right < -60
    assert "times" not in text


def test_mixture_with_another_gain(root: Path) -> None:
    path = root / "test/C/mixture.wav"
    write(path, 0.5 * soundfile.read(path)[0].T)
    text = only(examine(root), "warning", "mixture-unlike-sum", "test/C")
    assert "the mixture is the sum times 0.500, 0.500" in text


# ---------------------------------------------------------------- duplicates


def copy_track(root: Path, source: str, target: str) -> None:
    """A copy of a track: Vorbis at its lowest quality, softer, half a second and a bit later."""
    for path in sorted((root / source).iterdir()):
        late = np.pad(0.3 * soundfile.read(path)[0], ((round(0.57 * RATE), 0), (0, 0)))
        (root / target).mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(
            root / target / f"{path.stem}.ogg", "w", RATE, 2, "VORBIS", compression_level=1.0
        ) as file:
            for piece in np.array_split(late, 100):
                file.write(piece)


def test_duplicate_in_train_and_test(root: Path) -> None:
    copy_track(root, "train/B", "test/Another Name")
    report = examine(root)
    assert kinds(report)[("error", "duplicate")] == ["test/Another Name"]
    assert report.exit_code == 2
    text = text_of(report, "error", "duplicate")
    assert "sounds like train/B (correlation 0." in text
    assert "0.6 s later" in text
    assert examine(root, fast=True).findings == []


def test_duplicate_in_train(root: Path) -> None:
    shutil.copytree(root / "train/A", root / "train/D")
    text = only(examine(root), "warning", "duplicate", "train/D")
    assert "sounds like train/A (correlation 1.00 of 1)" in text


# --------------------------------------------------------------------- shell


def test_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert main([str(root), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    verdict = "2 train and 1 test track, 0.8 minutes; nothing found: ready for training"
    assert shown.splitlines()[-1].endswith(verdict)
    content = json.loads(file.read_text())
    assert (content["exit_code"], content["findings"]) == (0, [])
    assert content["tracks"][2]["files"]["mixture"]["rms_db"] == pytest.approx(-19, abs=3)

    replace_stem(root, "bass", lambda audio: 0 * audio)
    assert main([str(root), "--json", str(file)]) == 1
    shown = capsys.readouterr().out
    assert "warning: silent-stem (1)\n  train/A/bass.wav: silent throughout" in shown
    assert "  -> export it again" in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("train/A ")]
    assert row.split()[1:5] == ["0:15.0", *row.split()[2:4], "silent"]
    content = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["tracks"][0]["files"]["bass"]["rms_db"] is None
    assert content["findings"][0]["name"] == "silent-stem"

    (root / "train/B/bass.wav").unlink()
    assert main([str(root)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("error", "warning"))] == [
        "error: missing-stem (1)",
        "warning: silent-stem (1)",
    ]
    assert "1 error, 1 warning: not ready for training" in lines[-1]


def test_table_with_long_names_and_three_channels(root: Path) -> None:
    name = "Somebody - " + "A Very Long Title " * 3 + "(Live)"
    shutil.move(root / "train/A", root / "train" / name)
    for file in (root / "train" / name).iterdir():
        audio = soundfile.read(file, dtype="float32", always_2d=True)[0]
        write(file, np.vstack([audio.T, audio.T[:1]]))
    lines = format_report(examine(root)).splitlines()
    assert lines[1].split()[-6:] == ["channel", "1", "channel", "2", "channel", "3"]
    (row,) = [line for line in lines if "(Live)" in line]
    assert row.startswith("train/Somebody")
    assert "...ng Title (Live) " in row


def test_ten_findings_of_a_kind_are_shown(root: Path) -> None:
    for number in range(12):
        shutil.copytree(root / "train/A", root / f"train/N{number}")
        (root / f"train/N{number}/bass.wav").unlink()
    report = examine(root, fast=True)
    text = format_report(report)
    assert len(report.findings) == 12
    assert "error: missing-stem (12)" in text
    assert text.count("no bass.wav") == 10
    assert "... and 2 more" in text
    assert text.count("->") == 1


def test_missing_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nothing'}: does not exist")


def test_no_heavy_imports(root: Path) -> None:
    program = (
        "import sys; from datamodules import convert\n"
        "from datamodules.doctor.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'pytorch_lightning', 'scipy', 'musdb', 'stempeg'} & set(sys.modules)\n"
        "sys.exit(status or bool(heavy))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(report.__file__).parents[2])}
    command = [sys.executable, "-c", program, str(root), "--fast"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout


# --------------------------------------------------------------------- names


def test_audio_that_is_not_read_and_names_that_are_nearly_the_same(root: Path) -> None:
    for folder in ("train/@eaDir", "train/__MACOSX", "train/empty", "dev"):
        (root / folder).mkdir()
    vocals = root / "train/A/vocals.wav"
    for place in ("train/A/guitar.wav", "train/A/Vocals.wav", "train/x.wav", "dev/y.wav"):
        shutil.copy(vocals, root / place)
    write_song(root / "Valid/b", 9)
    expected = {
        ("warning", "same-name"): ["train/A/Vocals.wav", "Valid/b"],
        ("note", "unread-folder"): ["dev"],
        ("note", "unread-file"): ["train/x.wav", "train/A"],
        ("note", "no-audio"): ["train/empty"],
    }
    report = examine(root, fast=True)
    assert kinds(report) == expected
    assert report.counted == "2 train, 1 valid and 1 test track"
    assert "unread-folder" in json.dumps(report.json())
    assert "  dev: holds audio that is not read, such as y.wav" in format_report(report)
