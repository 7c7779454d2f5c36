"""A data set whose samples tell where they come from."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from datamodules.benchmark.corpus import SAMPLE_RATE, Task, read_once
from datamodules.tracks.layouts import MIXTURE, STEMS

TRACKS = 5


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Left is 4000 everywhere, right is 4000 over the number of the track, from 2 on."""
    root = tmp_path_factory.mktemp("benchmark") / "musdb18hq"
    for number in range(2, 2 + TRACKS):
        track = root / "train" / f"Track {number}"
        track.mkdir(parents=True)
        audio = np.full((3 * SAMPLE_RATE, 2), [4000, 4000 // number], np.int16)
        for name in (*STEMS, MIXTURE):
            soundfile.write(track / f"{name}.wav", audio, SAMPLE_RATE, subtype="PCM_16")
    return Task(root, read_once(root, False), SAMPLE_RATE // 4, batch_size=8)
