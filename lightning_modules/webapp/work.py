"""The work on a song: download and load the models, separate and draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from lightning_modules.inference.stem_files import SeparatingModule
from lightning_modules.webapp.catalogue import Catalogue
from lightning_modules.webapp.guard import log
from lightning_modules.webapp.jobs import Job, Report
from lightning_modules.webapp.presets import ALL_STEMS, Preset
from lightning_modules.webapp.rendering import separate_and_draw
from lightning_modules.webapp.workspace import Song, Workspace, public

# Part of the work that is the download of models, where one is needed.
_DOWNLOAD = 0.4


@dataclass(frozen=True)
class SongTask:
    """What a user wants.

    Attributes:
        upload: The uploaded file.
        models: Names of models.
        preset: Which stems.
        changes: Settings of separation that replace those of the models.
    """

    upload: str
    models: Sequence[str]
    preset: Preset = ALL_STEMS
    changes: Mapping[str, Any] = field(default_factory=dict)


def run_task(task: SongTask, models: Catalogue, workspace: Workspace, job: Job) -> Song:
    """Separate a song.

    Raises:
        DataError: The song or a model cannot be used; the message is for the user.
        StoppedError: The job is to be stopped.
    """
    workspace.check(Path(task.upload))  # before a download
    for name in task.models:
        if sources := models.entries[name].sources:
            task.preset.check(name, sources)
    share = _DOWNLOAD if any(map(models.needs_download, task.models)) else 0.0
    loaded = {}
    for number, name in enumerate(task.models):
        section = share / len(task.models)
        report = job.within(number * section, (number + 1) * section)
        what = f"{'Downloading' if models.needs_download(name) else 'Loading'} {name}"
        report(0.0, what)
        loaded[name] = _load(models, name, _describe(report, what))
        task.preset.check(name, loaded[name].sources)
    report = job.within(share, 1.0)
    return separate_and_draw(workspace, task.upload, loaded, report, task.changes, task.preset)


def _describe(report: Report, what: str) -> Callable[[float], None]:
    return lambda part: report(part, what)


def _load(models: Catalogue, name: str, progress: Callable[[float], None]) -> SeparatingModule:
    try:
        return models.load(name, progress)
    except (ValueError, OSError) as error:
        log(error, f"model {name}")  # with the folders of the server
        raise DataError(public(str(error))) from error
