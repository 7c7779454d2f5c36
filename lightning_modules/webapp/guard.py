"""What the server accepts: hosts, origins, routes and sizes; and what becomes of its errors."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import socket
import traceback
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamodules.files.writing import FULL
from lightning_modules.base.description import one_line
from lightning_modules.webapp.workspace import DISK_FULL

_LOG = logging.getLogger("uvicorn.error")
# The browser then refuses to load anything from other servers.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Gradio has many more routes, among them an API that does not know the queue.
_ROUTES = re.compile(
    r"/(app/|songs/|assets/|static/|svelte/|gradio_api/(file=|heartbeat/)).*"
    r"|/((gradio_api/)?theme\.css|config/?|favicon\.ico|robots\.txt|manifest\.json)?"
    r"|/gradio_api/(queue/(join|data)|run/predict|upload(_progress)?|cancel|reset|startup-events|app_id)/?"
)
_UPLOAD = "/gradio_api/upload"
# Where the page calls functions: those that wait for their turn, and those that do not.
QUEUED, DIRECT = "/gradio_api/queue/join", "/gradio_api/run/predict"
# Requests other than uploads are short.
_MAX_BYTES = 2**16
# Of an upload, beside the file.
_FORM_BYTES = 2**16


@dataclass(frozen=True)
class Hosts:
    """Names under which browsers may reach the server.

    A page of another server can let its own name point to this machine ("DNS rebinding"); it
    cannot do so with an address.

    Attributes:
        names: Names and addresses in lower case.
        proxied: Those of them that a proxy answers to: they may be the origin of a request whose
            host is another one.
        any_address: Whether to accept all addresses.
    """

    names: frozenset[str]
    proxied: frozenset[str] = frozenset()
    any_address: bool = False

    @classmethod
    def of(cls, address: str, name: str, proxied: Iterable[str] = ()) -> Hosts:
        """Hosts of a server.

        Args:
            address: The address it listens on, which may be that of all interfaces.
            name: The name or address that was given for it.
            proxied: Names of a proxy in front of it.
        """
        bound = ipaddress.ip_address(address.partition("%")[0])
        own = {address, name}
        if bound.is_loopback or bound.is_unspecified:
            own |= {"localhost", "127.0.0.1", "::1"}
        if bound.is_unspecified:
            own |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        others = frozenset(map(str.lower, proxied))
        return cls(frozenset(map(str.lower, own)) | others, others, bound.is_unspecified)

    def refusal(self, headers: Headers) -> str:
        """Return why a request is not accepted; empty if it is."""
        host = headers.get("host", "")
        name = _name(host)
        if len(headers.getlist("host")) != 1 or not self._accepts(name):
            return (
                f"Host {host!r:.100}: this app answers to {', '.join(sorted(self.names))}; start "
                "it with --allow-host NAME to use another name"
            )
        origin = headers.get("origin")
        if origin is not None:
            place = origin.partition("://")[2]
            if place.lower() != host.lower() and _name(place) not in self.proxied:
                return f"Origin {origin!r:.100}: pages of other servers cannot use this app"
        return ""

    def _accepts(self, name: str) -> bool:
        if name in self.names:
            return True
        with suppress(ValueError):
            return self.any_address and bool(ipaddress.ip_address(name))
        return False


def _name(place: str) -> str:
    """Return the name in ``name:port`` in lower case; empty if there is none."""
    with suppress(ValueError):
        if not set(place) & set("@/?#\\"):
            return (urlsplit(f"//{place}").hostname or "").removesuffix(".")
    return ""


class Guard:
    """ASGI middleware: refuses requests that the page does not make, and reports errors.

    An error, also one of a library, is one line for the browser and one in the log.

    Args:
        app: The application.
        hosts: Names under which it is reached; None accepts any.
        upload_bytes: Size of the largest file.
        functions: ``QUEUED`` and ``DIRECT`` -> numbers of the page's functions that may be called
            there.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts | None,
        upload_bytes: int,
        functions: Mapping[str, Collection[int]],
    ) -> None:
        self._app, self._hosts = app, hosts
        self._upload_bytes, self._functions = upload_bytes, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._handle(scope, receive, answer)
        except _RefusedError as refusal:
            answer.failed = refusal
        except ClientDisconnect:
            answer.started = True  # nobody is there
        except Exception as error:
            log(error, f"{scope.get('method', '')} {scope['path']!r:.100}")
            answer.failed = _refusal_of(error)
        if answer.failed is not None:
            await answer.refuse(scope, receive)

    async def _handle(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._hosts is not None and (fault := self._hosts.refusal(headers)):
            raise _RefusedError(403, fault)
        if scope["type"] != "http" or not _ROUTES.fullmatch(path):
            raise _RefusedError(404, "There is no such page.")
        upload = path.rstrip("/") == _UPLOAD
        limit = self._upload_bytes + _FORM_BYTES if upload else _MAX_BYTES
        limited = _limited(receive, limit, headers.get("content-length"))
        if path.rstrip("/") in self._functions:
            limited = await _call_of(self._functions[path.rstrip("/")], limited)
        await self._app(scope, limited, answer.send)


async def _call_of(functions: Collection[int], receive: Receive) -> Receive:
    """Check that a request calls one of some functions; return it, to be read again."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages)
    try:
        number = json.loads(body)["fn_index"]
    except (ValueError, TypeError, KeyError, RecursionError):
        number = None
    if not isinstance(number, int) or number not in functions:
        raise _RefusedError(422, "The page has no such function; reload it.")

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _refusal_of(error: Exception) -> _RefusedError:
    """Return the answer to a browser after an error; it says nothing about the server."""
    if isinstance(error, OSError) and error.errno in FULL:
        return _RefusedError(507, DISK_FULL)
    return _RefusedError(500, "The server could not do this; its log says why. Reload the page.")


class _Answer:
    """The response of a request.

    Attributes:
        failed: The reason if the application failed.
        started: Whether it has begun to answer.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.failed: _RefusedError | None = None
        self.started = False

    async def send(self, message: Message) -> None:
        """Forward a message, with headers, unless it reports an error inside the server."""
        if message["type"] == "http.response.start":
            if message["status"] == 500:
                self.failed = _refusal_of(RuntimeError())
            else:
                MutableHeaders(scope=message).update(_HEADERS)
        if self.failed is None:
            self.started = True
            await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive) -> None:
        """Answer with the reason; end an answer that has begun."""
        assert self.failed is not None
        if self.started:
            with suppress(RuntimeError):  # it was complete, or its length was declared
                await self._send({"type": "http.response.body", "body": b""})
            return
        status, reason = self.failed.status, self.failed.reason
        if scope["path"].startswith("/songs/"):  # the player's requests
            response: Response = JSONResponse({"detail": reason}, status, _HEADERS)
        else:  # Gradio shows the text
            response = PlainTextResponse(reason, status, _HEADERS)
        await response(scope, receive, self._send)


def _limited(receive: Receive, limit: int, declared: str | None) -> Receive:
    """Return ``receive`` that refuses a body that is longer than a limit, in bytes."""
    refused = _RefusedError(413, f"The request exceeds the maximum allowed size, {limit:,} bytes.")
    if declared is not None and (not declared.isdecimal() or int(declared) > limit):
        raise refused
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise refused
        return message

    return counted


def log(error: BaseException, where: str) -> None:
    """Write an error to the log on one line, and its traceback on request."""
    if os.environ.get("STEMLAB_TRACEBACK"):
        traceback.print_exception(error)
    kind = type(error).__name__
    _LOG.error("%s: %s: %s", where, kind, one_line(error).removeprefix(f"{kind}: "))
