"""HTTP server of the app: the page, and the songs by their tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

# Must be set before Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
import gradio.queueing
from fastapi import FastAPI, HTTPException
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamodules.errors import counted
from lightning_modules.plots.sound import frequency_heights
from lightning_modules.webapp import rendering
from lightning_modules.webapp.catalogue import Catalogue
from lightning_modules.webapp.guard import DIRECT, QUEUED, Guard, Hosts, log
from lightning_modules.webapp.jobs import Jobs
from lightning_modules.webapp.page import build_page
from lightning_modules.webapp.theme import THEME
from lightning_modules.webapp.workspace import Song, Workspace, public

_TYPES = {".js": "text/javascript", ".css": "text/css"}
_STATIC = {
    file.name: _TYPES[Path(file.name).suffix]
    for file in (files("lightning_modules.webapp") / "static").iterdir()
}
_AUDIO = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}
_TICKET = re.compile(rb"ticket-\w{1,32}")
_HEAD = """<link rel="stylesheet" href="/app/page.css">
<script type="module" src="/app/player.js"></script>"""


def build_server(
    models: Catalogue, workspace: Workspace, jobs: Jobs, hosts: Hosts | None = None
) -> FastAPI:
    """Build the ASGI application of the page and the songs.

    Args:
        models: The models that users can choose.
        workspace: Stores the songs; created before this module is imported.
        jobs: The queue of songs.
        hosts: Names under which browsers reach it; by default any.
    """
    app = FastAPI(title="Stemlab", docs_url=None, redoc_url=None, openapi_url=None)
    songs = _SongRoutes(workspace)
    for path, answer in (
        ("/app/{name}", _static),
        ("/songs/{token}", songs.describe),
        ("/songs/{token}/pcm", songs.pcm),
        ("/songs/{token}/envelopes", songs.envelopes),
        ("/songs/{token}/spectrograms/{track}", songs.spectrogram),
        ("/songs/{token}/stems/{track}", songs.stem),
        ("/songs/{token}/models/{model}/{kind}", songs.model),
        ("/songs/{token}/remix", songs.remix),
    ):
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    page = build_page(models, workspace, jobs)
    functions = {
        path: [number for number, function in page.fns.items() if function.queue is waits]
        for path, waits in ((QUEUED, True), (DIRECT, False))
    }
    app.add_middleware(Tickets)
    app.add_middleware(Guard, hosts=hosts, upload_bytes=workspace.limits.bytes, functions=functions)
    # It would print tracebacks of errors that a request causes.
    gradio.queueing.traceback = SimpleNamespace(print_exc=_log_current_error)
    served: FastAPI = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        max_file_size=workspace.limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        theme=THEME,
        head=_HEAD,
    )
    # Gradio 6 considers a mounted page as not launched, and then does not check that the file named
    # by a browser was uploaded: it would accept any file of the machine.
    page.has_launched = page.is_running = True
    return served


class Tickets:
    """ASGI middleware: the answer to a download with ``?ticket=NAME`` sets a cookie of this name.

    It has the status, and tells the page, which cannot see downloads, that the file is encoded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        query = parse_qs(scope.get("query_string", b""))
        (ticket,) = query.get(b"ticket", [b""])[:1]
        if not _TICKET.fullmatch(ticket):
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = b"%s=%d; Path=/; Max-Age=60; SameSite=Strict" % (ticket, message["status"])
                message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
            await send(message)

        await self._app(scope, receive, answer)


class _SongRoutes:
    """Routes of a song; FastAPI runs them in threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def describe(self, token: str) -> Response:
        song = self._song(token)
        described = {
            "title": song.title,
            "sampleRate": song.sample_rate,
            "channels": song.channels,
            "samples": song.samples,
            "headroom": rendering.headroom(song),
            "tracks": [
                {"name": track.name, "model": track.model, "muted": track.muted, "power": power}
                for track, power in zip(song.tracks, song.powers, strict=True)
            ],
            "models": song.models,
            "formats": rendering.formats(song),
            "stemMp4": shutil.which("ffmpeg") is not None,
            "frequencies": frequency_heights(),
        }
        return Response(json.dumps(described), media_type="application/json")

    def pcm(self, token: str, start: int, samples: int) -> Response:
        content = rendering.pcm(self._song(token), start, samples)
        return Response(content, media_type="application/octet-stream")

    def envelopes(self, token: str) -> Response:
        content = rendering.envelopes(self._song(token))
        return Response(content, media_type="application/octet-stream")

    def spectrogram(self, token: str, track: int) -> Response:
        song = self._song(token)
        _check_number(track, song.tracks, "track")
        return FileResponse(rendering.spectrogram(song, track), media_type="image/png")

    def stem(self, token: str, track: int, form: str = "wav") -> Response:
        song = self._song(token)
        _check_number(track, song.tracks, "track")
        media = _media_type(form)
        with _refusing(503):
            path = rendering.stem(song, track, form)
        name = f"{song.title} - {song.tracks[track].name}.{form}"
        return FileResponse(path, media_type=media, filename=name)

    def model(self, token: str, model: int, kind: str, form: str = "wav") -> Response:
        song = self._song(token)
        _check_number(model, song.models, "model")
        _media_type(form)
        with _refusing(503):
            if kind == "zip":
                path, media = rendering.archive(song, song.models[model], form), "application/zip"
            elif kind == "stem.mp4":
                path, media = rendering.stem_mp4(song, song.models[model]), "video/mp4"
            else:
                raise HTTPException(404, "no such download")
        return FileResponse(path, media_type=media, filename=f"{song.title}.{kind}")

    def remix(self, token: str, levels: str, form: str = "wav") -> Response:
        song = self._song(token)
        media = _media_type(form)
        with _refusing(422):
            path = rendering.remix(song, [float(word) for word in levels.split(",")], form)
        return FileResponse(
            path,
            media_type=media,
            filename=f"{song.title} - my mix.{form}",
            background=BackgroundTask(shutil.rmtree, path.parent, ignore_errors=True),
        )

    def _song(self, token: str) -> Song:
        song = self._workspace.song(token)
        if song is None:
            minutes = self._workspace.limits.keep_minutes
            raise HTTPException(
                404,
                f"This song is no longer available: songs are deleted after "
                f"{counted(minutes, 'minute')} without use. Separate it again.",
            )
        return song


def _check_number(number: int, known: Sequence[object], what: str) -> None:
    if not 0 <= number < len(known):
        raise HTTPException(404, f"no such {what}")


def _media_type(form: str) -> str:
    if form not in _AUDIO:
        raise HTTPException(404, "no such format")
    return _AUDIO[form]


@contextmanager
def _refusing(status: int) -> Iterator[None]:
    """Answer with a status and the message of a ``ValueError``."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(status, public(str(error))) from error


def _log_current_error() -> None:
    error = sys.exception()
    assert error is not None
    log(error, "the page's queue")


def _static(name: str) -> Response:
    if name not in _STATIC:
        raise HTTPException(404, "no such file")
    content = (files("lightning_modules.webapp") / "static" / name).read_bytes()
    return Response(content, media_type=_STATIC[name], headers={"Cache-Control": "no-cache"})
