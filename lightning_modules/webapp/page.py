"""The page, built with Gradio; the player of a song is ``static/player.js``."""

from __future__ import annotations

import html
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import gradio

from datamodules.errors import DataError, counted
from lightning_modules.webapp import advanced
from lightning_modules.webapp.catalogue import Catalogue
from lightning_modules.webapp.example import example_song
from lightning_modules.webapp.guard import log
from lightning_modules.webapp.jobs import Job, Jobs, StoppedError
from lightning_modules.webapp.presets import ALL_STEMS, PRESETS
from lightning_modules.webapp.work import SongTask, run_task
from lightning_modules.webapp.workspace import Limits, Song, Workspace

_REFRESH_SECONDS = 0.3
_NONE = ("no other model", "")
_EMPTY = """<div class="stemlab-empty">The separated stems appear here, to play, mute, solo, mix and
download.</div>"""
_FAILED = """The server could not separate this song; its log says why. Try another song, or tell
whoever runs it."""
_STOPPED = '<div class="stemlab-empty">Stopped. The song was deleted.</div>'


class _Page:
    """Functions of the page's buttons."""

    def __init__(self, models: Catalogue, workspace: Workspace, jobs: Jobs) -> None:
        self._models, self._workspace, self._jobs = models, workspace, jobs
        self._running: dict[str | None, Job] = {}  # by browser session

    def separate(
        self,
        upload: str | None,
        preset: str,
        model: str,
        other: str,
        request: gradio.Request,
        *settings: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Separate a song; yield the result's HTML, and updates of both buttons."""
        chosen = list(dict.fromkeys(name for name in (model, other) if name))
        try:
            if not upload:
                raise DataError("Choose a song first: drop a file on the song field, or click it.")
            task = SongTask(upload, chosen, PRESETS[preset], advanced.read_fields(settings))
            job = self._jobs.start(partial(self._work, task))
        except DataError as error:
            yield _message(str(error)), *_buttons(running=False)
            return
        self._running[request.session_hash] = job
        try:
            yield _progress(job, self._jobs.ahead(job)), *_buttons(running=True)
            while not job.wait(_REFRESH_SECONDS) and not job.is_stopped:
                yield _progress(job, self._jobs.ahead(job)), gradio.skip(), gradio.skip()
            yield _STOPPED if job.is_stopped else _result(job), *_buttons(running=False)
        finally:
            job.stop()  # the browser may be gone
            if self._running.get(request.session_hash) is job:
                del self._running[request.session_hash]

    def _work(self, task: SongTask, job: Job) -> str:
        return _player(run_task(task, self._models, self._workspace, job))

    def stop(self, request: gradio.Request) -> None:
        """Stop the song of a browser session."""
        if job := self._running.get(request.session_hash):
            job.stop()

    def example(self) -> str:
        """Return the path of the example song."""
        return str(example_song(self._workspace.uploads))

    def about(self, *names: str) -> str:
        """Return lines about the chosen models."""
        return "".join(self._about(name) for name in dict.fromkeys(names) if name)

    def _about(self, name: str) -> str:
        text = self._models.entries[name].about
        if self._models.needs_download(name):
            text += ". It is downloaded at first use."
        return f'<p class="stemlab-note">{html.escape(text)}</p>'


def build_page(models: Catalogue, workspace: Workspace, jobs: Jobs) -> gradio.Blocks:
    """Build the page.

    Args:
        models: The models that users can choose.
        workspace: Stores the songs.
        jobs: The queue of songs.

    Returns:
        The page, not yet served.
    """
    do = _Page(models, workspace, jobs)
    choices = [(entry.label, name) for name, entry in models.entries.items()]
    with gradio.Blocks(title="Stemlab", analytics_enabled=False, fill_width=True) as page:
        _html(
            '<header class="stemlab-header"><h1>Stemlab</h1>'
            "<p>Separate a song into its stems.</p></header>"
        )
        with gradio.Row(elem_classes="stemlab-columns"):
            with gradio.Column(scale=1, min_width=300, elem_classes="stemlab-side"):
                upload = gradio.File(label="Song", height=150, elem_id="song")
                example = gradio.Button("Use an example song", size="sm", elem_id="example")
                preset = gradio.Radio(
                    list(PRESETS), value=ALL_STEMS.label, label="Stems", elem_id="preset"
                )
                model = gradio.Dropdown(
                    choices, value=choices[0][1], label="Model", elem_id="model"
                )
                other = gradio.Dropdown(
                    [_NONE, *choices],
                    value="",
                    label="Compare with",
                    visible=len(choices) > 1,
                    elem_id="other",
                )
                about = _html(do.about(choices[0][1]), elem_id="about")
                with gradio.Accordion("Advanced", open=False, elem_id="advanced"):
                    fields = advanced.build_fields()
                button = gradio.Button("Separate", variant="primary", elem_id="separate")
                stop = gradio.Button("Stop", visible=False, variant="stop", elem_id="stop")
                _html(f'<p class="stemlab-note">{_limits_words(workspace.limits)}</p>')
            with gradio.Column(scale=3, min_width=320):
                result = _html(_EMPTY, elem_id="result")
        private: dict[str, Any] = {"api_visibility": "private"}
        at_once: dict[str, Any] = {**private, "show_progress": "hidden"}
        button.click(
            do.separate,
            [upload, preset, model, other, *fields],
            [result, button, stop],
            concurrency_limit=None,  # ``Jobs`` is the queue
            trigger_mode="once",
            **at_once,
        )
        stop.click(do.stop, None, None, queue=False, **at_once)
        example.click(do.example, None, upload, concurrency_limit=None, **private)
        gradio.on(
            [model.change, other.change], do.about, [model, other], about, queue=False, **at_once
        )
        page.unload(do.stop)
    # Songs that wait in ``Jobs`` are running for Gradio.
    page.queue(max_size=None, default_concurrency_limit=None)
    return page


def _buttons(running: bool) -> tuple[Any, Any]:
    return gradio.Button(visible=not running), gradio.Button(visible=running)


def _progress(job: Job, ahead: int) -> str:
    what = f"Waiting for {counted(ahead, 'other song')}" if ahead else job.what or "Starting"
    left = ", ".join(words for words in (f"{job.part:.0%}", job.time_left) if words)
    return (
        f'<div class="stemlab-progress"><p class="what">{html.escape(what)}</p>'
        f'<progress max="1" value="{job.part:.3f}" aria-label="Progress"></progress>'
        f'<p class="left">{left}</p></div>'
    )


def _result(job: Job) -> str:
    try:
        return job.result.result()
    except (StoppedError, CancelledError):
        return _STOPPED
    except DataError as error:
        return _message(str(error))
    except Exception as error:
        log(error, "separation")
        return _message(_FAILED)


def _player(song: Song) -> str:
    damage = _message(f"The song is damaged: {song.shortfall}") if song.shortfall else ""
    return f'{damage}<stem-player song="{song.token}"></stem-player>'


def _message(text: str) -> str:
    return f'<div class="stemlab-error" role="alert">{html.escape(text)}</div>'


def _limits_words(limits: Limits) -> str:
    return (
        f"WAV, MP3, FLAC, M4A or Ogg, up to {counted(limits.minutes, 'minute')} and "
        f"{limits.megabytes:g} MB. Songs are deleted after "
        f"{counted(limits.keep_minutes, 'minute')} without use."
    )


def _html(content: str, **settings: Any) -> gradio.HTML:
    # Gradio's default style would change buttons and headings inside.
    return gradio.HTML(content, apply_default_css=False, **settings)
