"""The loader benchmark: results, table, packages that are not installed, and mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.tools.benchmark import main

TINY = [
    "loader", "--tracks", "3", "--track-seconds", "1", "--segment-seconds", "0.25",
    "--batch-size", "2", "--seconds", "0.02",
]  # fmt: skip


def rates(row: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = row["audio_seconds_per_cpu_second"]
    return found


@pytest.mark.slow
def test_table_agrees_with_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for absent in ("openunmix", "demucs"):
        monkeypatch.setitem(sys.modules, absent, None)
    names = ["soundfile", "stemlab", "stemlab-int16", "openunmix", "demucs"]
    path = tmp_path / "report.json"
    arguments = ["--repeats", "1", "--only", *names, "--json", str(path)]
    assert main([*TINY, *arguments]) == 0
    output = capsys.readouterr()
    report = json.loads(path.read_text())
    rows = report["rows"]
    assert list(rows) == ["limit-float32", "limit-int16", *names]
    base = rates(rows["soundfile"])
    for name in names[:3]:
        row = rows[name]
        assert row["fault"] is None
        assert row["rounds"] == 1
        assert list(rates(row)) == ["0", "1", "2"]
        assert row["wall_two_workers_to_one"] > 0
        limit = rows["limit-int16" if name == "stemlab-int16" else "limit-float32"]
        for workers, value in rates(row).items():
            assert value > 0
            assert row["times_soundfile"][workers] == pytest.approx(value / base[workers])
            assert row["share_of_limit"][workers] == pytest.approx(value / rates(limit)["0"])
        assert row["times_openunmix"] == {}
    assert rows["soundfile"]["times_soundfile"] == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert rows["openunmix"]["fault"] == "openunmix is not installed: pip install 'openunmix'"
    assert rows["demucs"]["fault"] == "demucs is not installed: pip install 'demucs[train]'"
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["packages"]["torch"]
    assert report["settings"]["tracks"] == 3

    lines = [line for line in output.out.splitlines() if line.startswith("|")]
    cells = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines}
    assert len(lines) == 2 + len(rows)
    assert len({len(line.split("|")) for line in lines}) == 1
    for name in names[:3]:
        shown = [cell.strip() for cell in cells[name]]
        assert shown[:3] == [f"{value:.0f}" for value in rates(rows[name]).values()]
    assert "not measured: demucs is not installed" in cells["demucs"][-2]
    assert cells["demucs"][0].strip() == "-"
    assert "Writing 3 tracks of 1 s, 0.00 GB" in output.err  # announced before writing


@pytest.mark.slow
def test_own_data_set(musdb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    arguments = ["--root", str(musdb_root), "--tracks", "4", "--workers", "1", "--repeats", "1"]
    assert main([*TINY, *arguments, "--only", "stemlab", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["settings"]["data"] == str(musdb_root)
    assert report["settings"]["tracks"] == 4
    row = report["rows"]["stemlab"]
    assert list(rates(row)) == ["1"]
    assert row["times_soundfile"] == {}  # not measured
    assert row["wall_two_workers_to_one"] is None
    assert list(row["share_of_limit"]) == ["1"]
    assert " - " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tracks", "1"], "--tracks is 1: give 2 or more"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--seconds", "0"], "--seconds is 0.0: give a length above 0"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--segment-seconds", "-1"], "--segment-seconds is -1.0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--workers", "1", "1"], "give each number once"),
        (["--segment-seconds", "2"], "--track-seconds 1 is shorter than a crop of 2 s"),
        (["--json", "."], "--json .: is a folder"),
        (["--root", "missing"], "missing: does not exist"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


def test_flac_data_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track = tmp_path / "train" / "Song"
    track.mkdir(parents=True)
    (track / "vocals.flac").touch()
    assert main([*TINY, "--root", str(tmp_path)]) == 2
    assert f"{track}: has no vocals.wav" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["loader", "--only", "nothing"]])
def test_unknown_subcommands_and_loaders(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "lightning_modules.tools.benchmark" in capsys.readouterr().err


def test_loading_is_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["loader", "--help"])
    capsys.readouterr()
    monkeypatch.delitem(sys.modules, "torch")
    for arguments in (["loader", "--help"], ["--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        announced = capsys.readouterr().err
        assert announced == ("Loading the benchmark...\n" if len(arguments) > 1 else "")
