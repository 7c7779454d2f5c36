"""The doctor's plots show every track and finding."""

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


def text_of(figure: Figure) -> str:
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj() if hasattr(text, "get_text"))


def test_plots_show_every_track_and_finding(root: Path) -> None:
    report = examine(root)
    overview, levels = data_sets.overview_figure(report), data_sets.levels_figure(report)
    shown = text_of(overview)
    assert all(found.name in shown for found in report.findings)
    assert "error" in shown
    dots = overview.axes[1].collections
    files = sum(len(track.files) for track in report.tracks)
    assert sum(len(np.asarray(dot.get_offsets())) for dot in dots) == files
    bars = [bar for bar in overview.axes[0].patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars) == len(report.tracks)
    shown = text_of(levels)
    assert shown.count("silent") == 1
    assert all(f"{track.subset}/{track.name}" in shown for track in report.tracks)


@pytest.mark.slow
def test_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.main([str(root), "--json", "report.json", "-o", "plots"]) == 2
    shown = capsys.readouterr().out
    assert "sounds like" in shown
    assert shown.splitlines()[-2:] == ["plots/overview.png", "plots/levels.png"]
    assert all(Path(path).stat().st_size > 10_000 for path in shown.splitlines()[-2:])
    assert Path("report.json").is_file()
    assert doctor.main([str(root), "--fast", "-o", "none"]) == 0
    assert not Path("none").exists()
    assert doctor.main(["gone"]) == 2
    assert "error: gone" in capsys.readouterr().err


def test_plots_without_readable_tracks(root: Path) -> None:
    for path in root.rglob("*.wav"):
        path.write_bytes(b"no audio")
    report = examine(root)
    assert "no track could be read" in text_of(data_sets.levels_figure(report))
    shown = text_of(data_sets.overview_figure(report))
    assert report.findings
    assert all(found.name in shown for found in report.findings)
