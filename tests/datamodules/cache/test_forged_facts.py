"""Facts that others wrote into the cache: valid lines with impossible values."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.cache import folder as command
from datamodules.cache.folder import stored
from datamodules.files.state import state
from datamodules.tracks.index import index_tracks
from datamodules.tracks.preparation import resample_tracks
from tests.helpers.tracks import write_folder

FORGED = [
    *(("header", value) for value in (None, 3, [], ["a"] * 5, [10**30, -1, 0, "PCM_16", True])),
    *(("find_non_finite", value) for value in ("no", None, -2, 1.5)),
    *(("content", value) for value in ("../../etc", "/etc", 3, None, ["a"], "A" * 32)),
]


@pytest.mark.parametrize(("fact", "value"), FORGED)
def test_impossible_values_are_determined_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str, value: object
) -> None:
    monkeypatch.setattr("datamodules.files.state._SETTLED_NS", -(10**18))
    cache, root = tmp_path / "cache", tmp_path / "root"
    monkeypatch.setenv("STEMLAB_CACHE", str(cache))
    folder = write_folder(root / "A")
    soundfile.write(folder / "bass.wav", np.zeros((4000, 2), np.float32), 8000, subtype="FLOAT")
    (track,) = index_tracks(root, "train", progress=False)
    facts = {str(path): [state(path), {fact: value}] for path in folder.iterdir()}
    content = json.dumps(facts).encode()
    with (cache / "ledger.jsonl").open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(content), content))
    assert index_tracks(root, "train", progress=False) == [track]
    (resampled,) = resample_tracks([track], 4000, progress=False)
    assert resampled.samples == 2000
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "root"}
    assert all(entry.folder.parent == cache / "decoded" for entry in stored())
    assert command.main(["show"]) == 0
    assert command.main(["clear", str(root), "--yes"]) == 0
    assert stored() == []
