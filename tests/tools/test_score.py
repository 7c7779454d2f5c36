"""The score tool from the command line."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import soundfile

from lightning_modules.evaluation import scorer
from lightning_modules.evaluation.estimates import Settings
from lightning_modules.evaluation.metrics import METRICS
from lightning_modules.evaluation.score_files import read_folder, read_scores
from lightning_modules.evaluation.scorer import Job, Scorer
from lightning_modules.tools import score
from tests.helpers.estimates import make_estimates, make_track
from tests.helpers.light_runs import ScoringThreads
from tests.helpers.pool_faults import score_after_kills

STEMS = ["--stems", "vocals", "drums"]
ALL = ["estimates", "data", "-o", "out", "--processes", "1", *STEMS]


@pytest.fixture(autouse=True)
def _in_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in threads, which start faster than processes, unless marked ``complete_run``."""
    if not request.node.get_closest_marker("complete_run"):
        monkeypatch.setattr(scorer, "ScoringPool", ScoringThreads)


def data_set(*names: str, folder: str = "estimates") -> None:
    for name in names:
        make_estimates(Path(folder, name), make_track(Path("data"), name, seconds=1.0, channels=1))


def divide_by_zero(known: object) -> NoReturn:
    raise ZeroDivisionError


def test_faulty_tracks_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """One run over all possible faults of a track, a second one after the repair."""
    data_set("a good", "b half", "c NaN", "d gone", "e damaged", "f channels")
    Path("out/test").mkdir(parents=True)
    Path("out/test/b half.json").write_text('{"targets": [{"name": "voc')
    nan = np.full((44100, 1), np.nan)
    soundfile.write("estimates/c NaN/drums.wav", nan, 44100, subtype="FLOAT")
    shutil.move("estimates/d gone", "estimates/d typo")
    Path("data/test/e damaged/vocals.wav").write_text("no audio")
    soundfile.write("estimates/f channels/vocals.wav", np.ones((44100, 3)), 44100)

    assert score.main(ALL) == 1
    out, err = capsys.readouterr()
    assert sorted(os.listdir("out/test")) == ["a good.json", "b half.json"]
    assert "2 tracks; dB" in out
    assert "scored again: out/test/b half.json: expected a museval score file" in err
    assert "ignored folders without a track of that name: 'd typo'" in err
    left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
    expected = [
        ("d gone", "neither estimates/test/d gone nor estimates/d gone is a folder"),
        ("c NaN", "drums.wav: holds NaN or infinity, first at 0.000 s"),
        ("e damaged", "vocals.wav: is not audio"),
        ("f channels", "vocals.wav: has 3 channel(s), its track 1 channel(s)"),
    ]
    assert len(left_out) == len(expected)
    for name, reason in expected:
        assert any(line.startswith(f"left out: {name}: ") and reason in line for line in left_out)

    before = {path: path.stat().st_mtime_ns for path in Path("out/test").iterdir()}
    for name in ("c NaN", "d gone", "e damaged", "f channels"):
        shutil.rmtree(f"data/test/{name}")
        data_set(name)
    shutil.rmtree("estimates/d typo")
    assert score.main(ALL) == 0
    out, err = capsys.readouterr()
    assert "2 of 6 tracks have their scores" in err
    assert "6 tracks; dB" in out
    assert len(os.listdir("out/test")) == 6
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())


def test_overwrite_is_needed_to_replace_scores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data_set("a")
    assert score.main(ALL) == 0
    written = Path("out/test/a.json").read_bytes()
    capsys.readouterr()
    assert score.main([*ALL, "--window-seconds", "0.5"]) == 2
    assert "out/test/a.json: contains scores with other window_seconds" in capsys.readouterr().err
    drums, rate = soundfile.read("estimates/a/drums.wav")
    soundfile.write("estimates/a/drums.wav", 0.5 * drums + 0.001, rate)
    assert score.main(ALL) == 2
    assert "with other estimates; give another folder with -o, or --over" in capsys.readouterr().err
    assert Path("out/test/a.json").read_bytes() == written
    assert score.main([*ALL, "--overwrite"]) == 0
    assert Path("out/test/a.json").read_bytes() != written
    Path("out/test/a.json").write_text('{"targets": []}')
    assert score.main(ALL) == 2
    assert "contains scores of unknown origin" in capsys.readouterr().err


def test_mixture_option_equals_mixture_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a", "b", folder="estimates/test")
    # Options between the folders, and both layouts of estimates.
    shutil.move("estimates/test/b", "estimates/b")
    arguments = ["estimates", "-o", "out", "--processes", "2", "data", *STEMS]
    assert score.main([*arguments, "--mixture", "--accompaniment"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("estimates on data, test")
    assert "mix SDR" in table
    baseline = read_folder("out/mixture/test")
    assert [track.name for track in baseline] == ["a", "b"]
    assert list(baseline[0].frames) == ["drums", "vocals", "accompaniment"]
    assert list(read_folder("out/test")[0].frames) == ["drums", "vocals", "accompaniment"]

    alone = ["--oracle", "mixture", "data", "-o", "mix", *STEMS, "--accompaniment"]
    assert score.main(alone) == 0
    for track in baseline:
        again = read_scores(f"mix/test/{track.name}.json")
        assert again.medians == track.medians


def test_ideal_mask_is_better_than_the_mixture(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a")
    arguments = ["--oracle", "irm2", "data", "-o", "out", "--mixture", *STEMS]
    assert score.main(arguments) == 0
    (ideal,), (mixture,) = read_folder("out/test"), read_folder("out/mixture/test")
    for stem in ("vocals", "drums"):
        assert ideal.medians[stem]["SDR"] > mixture.medians[stem]["SDR"] + 2
    capsys.readouterr()
    assert score.main([*arguments, "--oracle", "irm1"]) == 2
    assert "with other oracle; " in capsys.readouterr().err


def test_table_names_the_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a")
    arguments = ["--oracle", "blind_nmfd", "data", "-o", "out", *STEMS]
    assert score.main(arguments) == 0
    note = "note: oracle blind_nmfd: the estimates are made with the true sources (a)"
    assert note in capsys.readouterr().out
    assert score.main(arguments) == 0, "also when the scores are read back"
    assert note in capsys.readouterr().out


def test_folder_of_tracks_without_subsets(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a")
    shutil.move("data/test/a", "songs/a")
    arguments = ["estimates", "songs", "-o", "out", *STEMS]
    assert score.main(arguments) == 2
    assert "songs: has no test tracks; give --subset train" in capsys.readouterr().err
    assert score.main([*arguments, "--subset", "train"]) == 0
    assert os.listdir("out/train") == ["a.json"]


def test_metrics_are_computed_without_scoring_again(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a", "b")
    assert score.main(ALL) == 0
    before = read_folder("out/test")
    capsys.readouterr()
    assert score.main([*ALL, "--metrics", "si_sdr", "lsd", "--mixture"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    after = read_folder("out/test")
    (mixture, _) = read_folder("out/mixture/test")
    for old, new in zip(before, after, strict=True):
        assert new.medians == old.medians
        assert list(new.metrics) == ["si_sdr", "lsd"]
        # An estimate is 0.7 of its source and 0.2 of the mixture, and the sources are equally loud.
        assert new.metrics["si_sdr"]["vocals"] == pytest.approx(20 * np.log10(0.9 / 0.2), abs=0.2)
        assert mixture.metrics["si_sdr"]["vocals"] == pytest.approx(0, abs=0.2)
    mean = np.mean([track.metrics["si_sdr"]["vocals"] for track in after])
    assert lines["si_sdr"][0] == f"{mean:.4f}"

    with open("out/test_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["track"], row["source"]) for row in rows] == [
        (track, stem) for track in "ab" for stem in ("vocals", "drums")
    ]
    assert float(rows[0]["lsd"]) == after[0].metrics["lsd"]["vocals"]
    assert float(rows[0]["mixture_si_sdr"]) == mixture.metrics["si_sdr"]["vocals"]

    assert score.main([*ALL, "--metrics", "si_sdr"]) == 0
    assert "2 of 2 tracks have their scores" in capsys.readouterr().err
    assert score.main([*ALL, "--metrics", "l1"]) == 0
    assert list(read_scores("out/test/a.json").metrics) == ["si_sdr", "lsd", "l1"]


def test_help_lists_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["--help"])
    help_text = capsys.readouterr().out
    for name, metric in METRICS.items():
        assert f"  {name:10} {metric.description}\n" in help_text


@pytest.mark.slow
@pytest.mark.complete_run
def test_tracks_of_a_killed_process_are_scored_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = Scorer(Settings(), processes=1)
    times = {"a": 1, "b": 0, "c": 2}
    jobs = [
        Job(name, Path(f"{name}.json"), {}, partial(score_after_kills, tmp_path / name, count))
        for name, count in times.items()
    ]
    assert len(killed.run(jobs, "scoring")) == 2
    assert capsys.readouterr().err.count("scored again, one at a time") == 1
    assert list(killed.left_out) == ["c"]
    assert "was killed, also when it scored this track alone" in killed.left_out["c"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["a.json", "b.json"]


def test_letter_case_and_unicode_form_of_score_files_do_not_matter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data_set("\u00e9 one", "two")
    assert score.main(ALL) == 0
    Path("out/test/\u00e9 one.json").rename("out/test/E\u0301 ONE.json")
    capsys.readouterr()
    assert score.main([*ALL, "--mixture"]) == 0
    assert "2 of 2 tracks have their scores" in capsys.readouterr().err
    assert len(os.listdir("out/test")) == len(os.listdir("out/mixture/test")) == 2


def test_failing_job_is_left_out(tmp_path: Path) -> None:
    failing = Scorer(Settings(), processes=1)
    failing.run([Job("b", tmp_path / "b.json", {}, divide_by_zero)], "scoring")
    assert failing.left_out["b"].startswith("ZeroDivisionError")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    data_set("a")
    Path("empty/a typo").mkdir(parents=True)
    cases = [
        (["estimates", "gone", "-o", "out"], ["gone", "does not exist"]),
        (["gone", "data", "-o", "out", *STEMS], ["gone", "is not a folder"]),
        (["empty", "data", "-o", "out", *STEMS], ["such as 'a'", "found 'a typo'"]),
        (["--oracle", "magic", "data", "-o", "out", *STEMS], ["magic", "irm2"]),
        ([*ALL, "--metrics", "SI-SDR"], ["SI-SDR", "did you mean si_sdr?"]),
        ([*ALL, "--metrics", "xyz"], ["xyz", "known are snr, si_sdr, l1, signal_difference, lsd"]),
    ]
    for arguments, words in cases:
        assert score.main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), error
        assert all(word in error for word in words), error
    for arguments in (
        ["data", "-o", "out"],
        ["--oracle", "irm2", "estimates", "data", "-o", "out"],
        ["estimates", "data"],
        [*ALL, "--hop-seconds", "0"],
        [*ALL, "--window-seconds", "nan"],
        [*ALL, "--processes", "0"],
    ):
        with pytest.raises(SystemExit) as usage:
            score.main(arguments)
        assert usage.value.code == 2
    assert not Path("out").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_finished_scores_and_resumes(tmp_path: Path) -> None:
    names = [f"track {number}" for number in range(60)]
    data_set(*names)
    repository = Path(score.__file__).parents[2]
    command = [sys.executable, "-m", "lightning_modules.tools.score", *ALL]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("out/test/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "stopped; the scores in out are kept" in err
    assert "Traceback" not in err
    kept = read_folder("out/test")
    assert 1 <= len(kept) < len(names)
    assert len(os.listdir("out/test")) == len(kept), "no incomplete file is left"
    assert score.main(ALL) == 0
    assert len(read_folder("out/test")) == len(names)
