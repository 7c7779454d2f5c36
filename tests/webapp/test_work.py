"""The work on a song: what users want, models and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from lightning_modules.architectures.unet import UNet
from lightning_modules.webapp.catalogue import Catalogue, ModelEntry
from lightning_modules.webapp.example import example_song
from lightning_modules.webapp.jobs import Job, StoppedError
from lightning_modules.webapp.presets import PRESETS
from lightning_modules.webapp.work import SongTask, run_task
from lightning_modules.webapp.workspace import Limits, Workspace
from tests.helpers.webapp import catalogue, tiny, upload, write_song


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace(Limits(minutes=1, megabytes=9)) as workspace:
        yield workspace


@pytest.fixture
def song(workspace: Workspace, tmp_path: Path) -> str:
    return str(upload(workspace, write_song(tmp_path / "song.wav", 0.5)))


@pytest.mark.parametrize("label", ["Vocals and instrumental", "Karaoke"])
def test_presets(workspace: Workspace, song: str, label: str) -> None:
    found = run_task(SongTask(song, ["a"], PRESETS[label]), catalogue(a=tiny()), workspace, Job())
    muted = [track.name for track in found.tracks if track.muted]
    assert muted == (["vocals"] if label == "Karaoke" else [])
    mixture, vocals, instrumental = (soundfile.read(track.path)[0] for track in found.tracks)
    assert np.abs(mixture - vocals - instrumental).max() < 1e-6


def test_preset_is_checked_before_a_download(workspace: Workspace, song: str) -> None:
    def fail(progress: object) -> UNet:
        raise AssertionError("it is not downloaded")

    models = Catalogue(
        {"drums": ModelEntry(fail, "drums", sources=["drums"], is_here=lambda: False)}
    )
    with pytest.raises(
        DataError, match="drums: has neither vocals nor instrumental; its stems are drums"
    ):
        run_task(SongTask(song, ["drums"], PRESETS["Karaoke"]), models, workspace, Job())
    with pytest.raises(DataError, match="is no longer available"):
        run_task(SongTask("gone.wav", ["drums"]), models, workspace, Job())


def test_progress_covers_download_separation_and_drawing(workspace: Workspace, song: str) -> None:
    reports: list[tuple[float, str]] = []

    class Recorded(Job):
        def report(self, part: float, what: str, end: float = 1.0) -> None:
            reports.append((part, what))

    def load(progress: Callable[[float], None]) -> UNet:
        progress(0.5)
        return tiny()

    models = Catalogue({"a": ModelEntry(load, "a", is_here=lambda: False)})
    run_task(SongTask(song, ["a"]), models, workspace, Recorded())
    parts = [part for part, _ in reports]
    assert parts == sorted(parts)
    assert parts[:2] == [0, pytest.approx(0.2)]
    what = list(dict.fromkeys(what for _, what in reports))
    assert what == ["Downloading a", "Separating with a", "Drawing"]


def test_errors_of_models_have_no_folders_of_the_server(workspace: Workspace, song: str) -> None:
    def fail(progress: object) -> UNet:
        raise ValueError("/srv/secret/model.ckpt: is truncated")

    with pytest.raises(DataError, match=r"^model.ckpt: is truncated$"):
        run_task(SongTask(song, ["a"]), Catalogue({"a": ModelEntry(fail, "a")}), workspace, Job())


def test_nothing_is_left_of_a_stopped_song(workspace: Workspace, song: str) -> None:
    class Stopping(Job):
        def report(self, part: float, what: str, end: float = 1.0) -> None:
            if part > 0.5:
                self.stop()
            super().report(part, what, end)

    with pytest.raises(StoppedError):
        run_task(SongTask(song, ["a"]), catalogue(a=tiny()), workspace, Stopping())
    assert [path.name for path in workspace.root.iterdir()] == ["uploads"]


@pytest.mark.slow
def test_example_song(workspace: Workspace) -> None:
    path = example_song(workspace.uploads)
    assert path.suffix == ".flac"
    assert workspace.check(path).samples > 20 * 44100
    written = path.stat().st_ino
    assert example_song(workspace.uploads).stat().st_ino == written, "rendered once"
