"""Separation of files: how often a song is opened, and tags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.files.tags import read_tags
from lightning_modules.inference.selection import Selection
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.separators import TWO, Gains


def write_song(path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (30_000, 2))
    with soundfile.SoundFile(path, "w", 44100, 2) as file:
        file.title = "A title"
        file.write(noise)


@pytest.mark.parametrize(("residual", "opened"), [(False, 1), (True, 2)])
def test_song_is_opened_once_and_once_more_for_the_residual(
    residual: bool, opened: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "song.wav"
    write_song(path)
    calls: list[object] = []

    class Counting(soundfile.SoundFile):
        def __init__(self, file: Any, *args: Any, **keywords: Any) -> None:
            calls.append(file)
            super().__init__(file, *args, **keywords)

    monkeypatch.setattr(soundfile, "SoundFile", Counting)
    separate_file(Gains(TWO), path, tmp_path / "stems", selection=Selection(residual=residual))
    assert calls.count(os.fsencode(path)) == opened
    assert read_tags(tmp_path / "stems/vocals.wav")["title"] == "A title (vocals)"
