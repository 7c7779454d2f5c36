"""A web server on this computer that serves files, with the faults of real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FileServer:
    """What the server does; may be changed between requests.

    Attributes:
        files: Contents by path, such as ``/model/file.bin``.
        url: Address of the server.
        ranges: Whether it can continue a file.
        tag: What it calls the version of the files; none if empty.
        cuts: For each of the next answers, bytes after which the connection is cut.
        statuses: For each of the next answers, an error status.
        delay: An event to wait for before an answer; None for no waiting.
        requests: Path and ``Range`` of all requests so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    ranges: bool = True
    tag: str = '"first"'
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    delay: threading.Event | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, folder: Path, name: str) -> None:
        """Serve the files of a folder below a name."""
        for path in folder.iterdir():
            self.files[f"/{name}/{path.name}"] = path.read_bytes()


@contextmanager
def serving() -> Iterator[FileServer]:
    """Serve on a free port of this computer."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, state: FileServer) -> None:
    wanted = request.headers.get("Range", "")
    state.requests.append((request.path, wanted))
    if state.delay:
        state.delay.wait(10)
    contents = state.files.get(request.path)
    status = state.statuses.pop(0) if state.statuses else 200 if contents is not None else 404
    if contents is None or status != 200:
        request.send_error(status)
        return
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
    changed = request.headers.get("If-Range", state.tag) != state.tag
    if not state.ranges or changed:
        start = 0
    if start >= len(contents) > 0:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(contents)}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if start else 200)
    if start:
        last = len(contents) - 1
        request.send_header("Content-Range", f"bytes {start}-{last}/{len(contents)}")
    if state.tag:
        request.send_header("ETag", state.tag)
    is_page = contents.startswith(b"<!DOCTYPE")
    request.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
    request.send_header("Content-Length", str(len(contents) - start))
    request.end_headers()
    end = start + state.cuts.pop(0) if state.cuts else len(contents)
    request.wfile.write(contents[start:end])
    request.close_connection = True
