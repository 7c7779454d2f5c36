"""The doctor's pictures: what was found stands in them, on odd data, too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from datamodules.doctor.report import examine
from lightning_modules.plots import data_sets
from lightning_modules.tools import doctor


@pytest.fixture
def root(musdb_root: Path, tmp_path: Path) -> Path:
    """A data set with a silent stem, a clipped one, and a song both in train and test."""
    copy = tmp_path / "data"
    shutil.copytree(musdb_root, copy)
    track = next(path for path in sorted((copy / "train").iterdir()) if path.is_dir())
    shutil.copytree(track, copy / "test" / "Again")
    bass, rate = soundfile.read(track / "bass.wav", always_2d=True)
    soundfile.write(track / "bass.wav", 0 * bass, rate)
    soundfile.write(track / "drums.wav", np.sign(bass + 1e-9), rate)
    return copy


def words_of(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj() if hasattr(text, "get_text"))


def test_pictures_hold_every_track_and_finding(root: Path) -> None:
    report = examine(root)
    overview, levels = data_sets.overview_figure(report), data_sets.levels_figure(report)
    said = words_of(overview)
    assert all(found.name in said for found in report.findings)
    assert "error" in said
    dots = overview.axes[1].collections
    files = sum(len(track.files) for track in report.tracks)
    assert sum(len(np.asarray(dot.get_offsets())) for dot in dots) == files
    bars = [bar for bar in overview.axes[0].patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars) == len(report.tracks)
    said = words_of(levels)
    assert said.count("silent") == 1
    assert all(f"{track.subset}/{track.name}" in said for track in report.tracks)


def test_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.main([str(root), "--json", "report.json", "-o", "pictures"]) == 2
    said = capsys.readouterr().out
    assert "sounds like" in said
    assert said.splitlines()[-2:] == ["pictures/overview.png", "pictures/levels.png"]
    assert all(Path(path).stat().st_size > 10_000 for path in said.splitlines()[-2:])
    assert Path("report.json").is_file()
    assert doctor.main([str(root), "--fast", "-o", "none"]) == 0
    assert not Path("none").exists()
    assert doctor.main(["gone"]) == 2
    assert "error: gone" in capsys.readouterr().err


def test_nothing_that_could_be_read(root: Path) -> None:
    for path in root.rglob("*.wav"):
        path.write_bytes(b"no audio")
    report = examine(root)
    assert "no track could be read" in words_of(data_sets.levels_figure(report))
    said = words_of(data_sets.overview_figure(report))
    assert report.findings
    assert all(found.name in said for found in report.findings)
