"""Songs that are in several data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from datamodules.doctor.__main__ import main
from datamodules.doctor.report import examine
from tests.helpers.melodies import RATE, melody

STEMS = ("vocals", "other")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))


def write(folder: Path, seed: int, share: float, start: int = 0) -> None:
    """A song whose two stems are shares of one melody."""
    folder.mkdir(parents=True)
    for name, part in (("vocals", share), ("other", 1 - share)):
        soundfile.write(folder / f"{name}.wav", part * melody(seed).T[start:], RATE)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    first, other = tmp_path / "first", tmp_path / "other"
    for seed, name in enumerate(("train/A", "valid/B", "test/C")):
        write(first / name, seed, 0.5)
    for seed, name in ((0, "X_A"), (1, "X_B"), (2, "X_C"), (3, "New")):
        write(other / "songs" / name, seed, 0.2, start=1000)
    rows = ["track,stem,path"]
    rows += [
        f"{name},{stem},songs/{name}/{stem}.wav"
        for name in ("X_A", "X_B", "X_C", "New")
        for stem in STEMS
    ]
    (other / "list.csv").write_text("\n".join(rows) + "\n")
    return first, other / "list.csv"


def test_copies_in_another_data_set(roots: tuple[Path, Path]) -> None:
    first, other = roots
    findings = [
        found
        for found in examine(first, stems=STEMS, others=[other]).findings
        if found.name == "duplicate"
    ]
    told = {(each.severity, each.where, each.finding.partition(" (")[0]) for each in findings}
    assert told == {
        ("error", str(other / "X_B"), f"sounds like valid/B of {first}"),
        ("error", str(other / "X_C"), f"sounds like test/C of {first}"),
        ("warning", str(other / "X_A"), f"sounds like train/A of {first}"),
    }
    assert all(f"leave it out of {other}" in each.remedy for each in findings[:2])
    alone = examine(first, stems=STEMS)
    assert not [found for found in alone.findings if found.name == "duplicate"]


def test_a_faulty_track_of_another_data_set_is_a_warning(roots: tuple[Path, Path]) -> None:
    first, other = roots
    (other.parent / "songs/X_B/vocals.wav").write_bytes(b"RIFF")
    findings = examine(first, stems=STEMS, others=[other]).findings
    (warning,) = [found for found in findings if found.name == "unreadable"]
    assert (warning.severity, warning.where) == ("warning", str(other))
    assert "X_B/vocals.wav" in warning.finding
    assert {found.where for found in findings if found.name == "duplicate"} == {
        str(other / "X_A"),
        str(other / "X_C"),
    }


def test_command(roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, other = roots
    options = [str(first), "--stems", *STEMS, "--others", str(other)]
    assert main(options) == 2
    assert f"sounds like test/C of {first}" in capsys.readouterr().out
    assert main([*options, "--fast"]) == 2
    assert "--others compares the audio, which --fast does not read" in capsys.readouterr().err
