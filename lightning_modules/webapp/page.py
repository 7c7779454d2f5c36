"""The page, built with Gradio; the player of a song is ``static/player.js``."""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from typing import Any

import gradio

from datamodules.errors import DataError, counted
from lightning_modules.inference.stem_files import SeparatingModule
from lightning_modules.webapp import advanced, rendering
from lightning_modules.webapp.guard import log
from lightning_modules.webapp.workspace import Workspace

_MAX_MODELS = 2  # compared with each other
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
THEME = gradio.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=_FONTS,
    font_mono=["ui-monospace", "Consolas", "monospace"],
)
_EMPTY = """<div class="stemlab-empty">The separated stems appear here, to play, mute, solo, mix and
download.</div>"""
_FAILED = """The server could not separate this song; its log says why. Try another song, or tell
whoever runs it."""
_STOPPED = '<div class="stemlab-empty">Stopped. The song was deleted.</div>'


def build_page(
    models: Mapping[str, SeparatingModule], workspace: Workspace, queue: int, jobs: int
) -> gradio.Blocks:
    """Build the page.

    Args:
        models: Name -> model.
        workspace: Stores the songs.
        queue: Maximum number of waiting songs.
        jobs: Songs to separate in parallel.

    Returns:
        The page, not yet served.
    """
    names = list(models)
    limits = workspace.limits
    stops: dict[str | None, threading.Event] = {}  # by browser session
    # Around the work itself: whatever starts it waits for its turn.
    turns = threading.BoundedSemaphore(jobs)

    def leave(request: gradio.Request) -> None:
        stops.pop(request.session_hash, threading.Event()).set()

    def stop(request: gradio.Request) -> Any:
        if request.session_hash not in stops:
            return gradio.skip()  # keep a finished song
        leave(request)
        return _STOPPED

    def separate(
        upload: str | None,
        chosen: list[str],
        request: gradio.Request,
        progress: Any = gradio.Progress(),  # noqa: B008
        *settings: Any,
    ) -> str:
        if not upload:
            return _message("Choose a song first: drop a file on the song field, or click it.")
        known = [name for name in names if name in chosen]
        if not known or len(known) > _MAX_MODELS:
            return _message(f"{len(known)} models are selected: select one, or two to compare.")

        try:
            changes = advanced.read_fields(settings)
        except DataError as error:
            return _message(str(error))
        stopped = stops[request.session_hash] = threading.Event()

        def report(part: float, what: str) -> None:
            if stopped.is_set():
                raise DataError("stopped")
            progress(part, desc=what)

        try:
            while not turns.acquire(timeout=0.2):
                report(0.0, "waiting")
            try:
                song = rendering.separate_and_draw(
                    workspace, upload, {name: models[name] for name in known}, report, changes
                )
            finally:
                turns.release()
        except DataError as error:
            return _message(str(error))
        except Exception as error:
            log(error, "separation")
            return _message(_FAILED)
        finally:
            if stops.get(request.session_hash) is stopped:
                del stops[request.session_hash]
        damage = _message(f"The song is damaged: {song.shortfall}") if song.shortfall else ""
        return f'{damage}<stem-player song="{song.token}"></stem-player>'

    with gradio.Blocks(title="Stemlab", analytics_enabled=False, fill_width=True) as page:
        _html(
            '<header class="stemlab-header"><h1>Stemlab</h1>'
            "<p>Separate a song into its stems.</p></header>"
        )
        with gradio.Row(elem_classes="stemlab-columns"):
            with gradio.Column(scale=1, min_width=280, elem_classes="stemlab-side"):
                upload = gradio.File(label="Song", height=170, elem_id="song")
                chosen = gradio.CheckboxGroup(
                    names,
                    value=names[:1],
                    label="Model" if len(names) == 1 else "Models (select two to compare them)",
                    interactive=len(names) > 1,
                    elem_id="models",
                )
                with gradio.Accordion("Advanced", open=False, elem_id="advanced"):
                    fields = advanced.build_fields()
                with gradio.Row():
                    button = gradio.Button("Separate", variant="primary", elem_id="separate")
                    stop_button = gradio.Button("Stop", elem_id="stop", min_width=80)
                _html(
                    '<p class="stemlab-note">WAV, MP3, FLAC, M4A or Ogg, up to '
                    f"{counted(limits.minutes, 'minute')} and {limits.megabytes:g} MB. Songs "
                    f"are deleted after {counted(limits.keep_minutes, 'minute')} without use.</p>"
                )
            with gradio.Column(scale=3, min_width=320):
                result = _html(_EMPTY, elem_id="result")
        run = button.click(
            separate,
            [upload, chosen, *fields],
            result,
            concurrency_limit=jobs,
            trigger_mode="once",
            show_progress="full",
            api_visibility="private",
        )
        # Gradio removes waiting songs from its queue; a running separation needs the event.
        stop_button.click(stop, None, result, cancels=[run], queue=False, api_visibility="private")
        page.unload(leave)
    page.queue(max_size=queue, default_concurrency_limit=jobs)
    return page


def _message(text: str) -> str:
    return f'<div class="stemlab-error" role="alert">{html.escape(text)}</div>'


def _html(content: str, **settings: Any) -> gradio.HTML:
    # Gradio's default style would change buttons and headings inside.
    return gradio.HTML(content, apply_default_css=False, **settings)
