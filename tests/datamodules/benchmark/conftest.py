"""A data set whose samples identify their track and channel."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from datamodules.benchmark.corpus import SAMPLE_RATE, Task, read_once
from datamodules.tracks.layouts import MIXTURE, STEMS

TRACKS = 5


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The left channel is 4000, the right one 4000 / n in track n, from 2 on."""
    root = tmp_path_factory.mktemp("benchmark") / "musdb18hq"
    for number in range(2, 2 + TRACKS):
        track = root / "train" / f"Track {number}"
        track.mkdir(parents=True)
        audio = np.full((3 * SAMPLE_RATE, 2), [4000, 4000 // number], np.int16)
        for name in (*STEMS, MIXTURE):
            soundfile.write(track / f"{name}.wav", audio, SAMPLE_RATE, subtype="PCM_16")
    return Task(root, read_once(root), SAMPLE_RATE // 4, batch_size=8)
