"""The script that measures data sets for the docs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import data_sets
from datamodules.tracks.layouts import STEMS
from table_pages import DOCS, with_table

RATE = 44_100


def write_song(folder: Path, scale: float) -> None:
    """Tones of 100, 200, 400 and 800 Hz, the first only in the second of two seconds."""
    time = np.arange(2 * RATE) / RATE
    folder.mkdir(parents=True)
    for number, stem in enumerate(STEMS):
        tone = scale * 0.1 * np.sin(2 * np.pi * 100 * 2**number * time)
        if number == 0:
            tone[:RATE] = 0
        if number == 3 and scale < 1:
            tone[:] = 0
        stereo = np.stack([tone, tone], -1)
        soundfile.write(folder / f"{stem}.wav", stereo, RATE, subtype="FLOAT")


def page_in(folder: Path) -> Path:
    page = folder / "demo_corpus.md"
    page.write_text(f"# Head\n\n<!-- table: made by {data_sets.SCRIPT} -->\n<!-- end -->\n")
    return page


@pytest.mark.slow
def test_measures_of_known_songs(tmp_path: Path) -> None:
    write_song(tmp_path / "data/train/A - 1", 1.0)
    write_song(tmp_path / "data/test/B - 2", 0.5)
    page = page_in(tmp_path)
    assert data_sets.main([f"tones={tmp_path / 'data'}", "--docs", str(tmp_path)]) == 0
    row = json.loads((tmp_path / "data_sets.json").read_text())["tones"]
    assert row["songs"] == 2
    assert row["active"] == {"vocals": 0.5, "drums": 1, "bass": 1, "other": 1}
    levels = row["level_db"]
    assert levels["drums"][0] - levels["vocals"][0] == pytest.approx(3.01, abs=0.01)
    assert levels["other"][1] == 0, "the silent one of the second song does not count"
    assert row["mixture_db"][1] == pytest.approx(5 * np.log10(3.5 / (2.5 / 4)), abs=0.01)
    assert row["dominance"] > 0.6
    assert np.argmax(row["profile"]["other"]) == 5  # the octave around 1 kHz
    assert row["usdr"]["irm1"]["bass"] > 20 > 3 > row["usdr"]["best gain"]["bass"]
    text = page.read_text()
    assert "| active seconds, vocals             | 50% |" in text
    assert data_sets.main(["--docs", str(tmp_path)]) == 0
    assert page.read_text() == text


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = ["--docs", str(tmp_path)]
    assert data_sets.main(docs) == 2
    assert "demo_corpus.md: there is no such page" in capsys.readouterr().err
    page_in(tmp_path)
    assert data_sets.main(["songs", *docs]) == 2
    assert "songs: is not NAME=ROOT" in capsys.readouterr().err
    assert data_sets.main([f"a={tmp_path / 'gone'}", *docs]) == 2
    assert "gone" in capsys.readouterr().err
    assert not (tmp_path / "data_sets.json").exists()


def test_page_shows_the_stored_results() -> None:
    rows = json.loads((DOCS / "data_sets.json").read_text())
    page = DOCS / "demo_corpus.md"
    assert with_table(page, data_sets.SCRIPT, data_sets.tables(rows)) == page.read_text()
