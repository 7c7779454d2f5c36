"""HTTP server of the app: the page, and the songs by their tokens."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from types import SimpleNamespace

# Must be set before Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
import gradio.queueing
from fastapi import FastAPI, HTTPException
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from datamodules.errors import DataError, counted
from lightning_modules.inference.stem_files import SeparatingModule
from lightning_modules.plots.sound import frequency_heights
from lightning_modules.webapp import rendering
from lightning_modules.webapp.guard import DIRECT, QUEUED, Guard, Hosts, log
from lightning_modules.webapp.page import THEME, build_page
from lightning_modules.webapp.workspace import Song, Workspace, public

_STATIC = {
    "player.js": "text/javascript",
    "transport.js": "text/javascript",
    "blind_test.js": "text/javascript",
    "page.css": "text/css",
}
_HEAD = """<link rel="stylesheet" href="/app/page.css">
<script type="module" src="/app/player.js"></script>"""


def build_server(
    models: Mapping[str, SeparatingModule],
    workspace: Workspace,
    queue: int,
    jobs: int,
    hosts: Hosts | None = None,
) -> FastAPI:
    """Build the ASGI application of the page and the songs.

    Args:
        models: Name -> model.
        workspace: Stores the songs; created before this module is imported.
        queue: Maximum number of waiting songs.
        jobs: Songs to separate in parallel.
        hosts: Names under which browsers reach it; by default any.
    """
    app = FastAPI(title="Stemlab", docs_url=None, redoc_url=None, openapi_url=None)
    songs = _SongRoutes(workspace)
    for path, answer in (
        ("/app/{name}", _static),
        ("/songs/{token}", songs.describe),
        ("/songs/{token}/pcm", songs.pcm),
        ("/songs/{token}/pictures/{track}/{kind}", songs.picture),
        ("/songs/{token}/stems/{track}", songs.stem),
        ("/songs/{token}/models/{model}/{kind}", songs.model),
        ("/songs/{token}/remix", songs.remix),
    ):
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    page = build_page(models, workspace, queue, jobs)
    functions = {
        path: [number for number, function in page.fns.items() if function.queue is waits]
        for path, waits in ((QUEUED, True), (DIRECT, False))
    }
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
            "tracks": [{"name": track.name, "model": track.model} for track in song.tracks],
            "models": song.models,
            "stemMp4": shutil.which("ffmpeg") is not None,
            "frequencies": frequency_heights(),
        }
        return Response(json.dumps(described), media_type="application/json")

    def pcm(self, token: str, start: int, samples: int) -> Response:
        content = rendering.pcm(self._song(token), start, samples)
        return Response(content, media_type="application/octet-stream")

    def picture(self, token: str, track: int, kind: str) -> Response:
        song = self._song(token)
        if not 0 <= track < len(song.tracks) or kind not in rendering.PICTURES:
            raise HTTPException(404, "no such plot")
        return FileResponse(rendering.picture(song, track, kind), media_type="image/png")

    def stem(self, token: str, track: int) -> Response:
        song = self._song(token)
        if not 0 <= track < len(song.tracks):
            raise HTTPException(404, "no such track")
        found = song.tracks[track]
        name = f"{song.title} - {found.name}.wav"
        return FileResponse(found.path, media_type="audio/wav", filename=name)

    def model(self, token: str, model: int, kind: str) -> Response:
        song = self._song(token)
        makers = {"zip": rendering.archive, "stem.mp4": rendering.stem_mp4}
        if not 0 <= model < len(song.models) or kind not in makers:
            raise HTTPException(404, "no such download")
        try:
            path = makers[kind](song, song.models[model])
        except DataError as error:
            raise HTTPException(503, public(str(error))) from error
        media = {"zip": "application/zip", "stem.mp4": "video/mp4"}[kind]
        return FileResponse(path, media_type=media, filename=f"{song.title}.{kind}")

    def remix(self, token: str, levels: str) -> Response:
        song = self._song(token)
        try:
            path = rendering.remix(song, [float(word) for word in levels.split(",")])
        except ValueError as error:
            raise HTTPException(422, public(str(error))) from error
        return FileResponse(
            path,
            media_type="audio/wav",
            filename=f"{song.title} - my mix.wav",
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


def _log_current_error() -> None:
    error = sys.exception()
    assert error is not None
    log(error, "the page's queue")


def _static(name: str) -> Response:
    if name not in _STATIC:
        raise HTTPException(404, "no such file")
    content = (files("lightning_modules.webapp") / "static" / name).read_bytes()
    return Response(content, media_type=_STATIC[name], headers={"Cache-Control": "no-cache"})
