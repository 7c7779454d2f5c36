"""Hosts and origins that the web app accepts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")
from starlette.datastructures import Headers

from lightning_modules.webapp.guard import Guard, Hosts

LOCAL = Hosts.of("127.0.0.1", "127.0.0.1")
EVERYWHERE = Hosts.of("0.0.0.0", "0.0.0.0")
PROXIED = Hosts.of("127.0.0.1", "127.0.0.1", ["Music.example"])


def accepted(hosts: Hosts, host: str | None, origin: str | None = None) -> bool:
    given = {"host": host, "origin": origin}
    return not hosts.refusal(Headers({k: v for k, v in given.items() if v is not None}))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "localhost.:1", "[::1]:7860", "[::1]"]
)
def test_names_of_this_machine(host: str) -> None:
    assert accepted(LOCAL, host)
    assert accepted(LOCAL, host, f"http://{host}")
    assert accepted(EVERYWHERE, host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "",
        None, "evil@127.0.0.1", "127.0.0.1/x", "127.0.0.1:7860@evil", "127.0.0.1\\@evil", "[::1",
        "192.168.1.5", "0", "127.1", "2130706433", "[::ffff:127.0.0.1]", " ",
    ],
)  # fmt: skip
def test_other_names(host: str | None) -> None:
    assert not accepted(LOCAL, host)


def test_an_app_on_all_interfaces_answers_to_addresses_but_not_to_names_of_others() -> None:
    for host in ("192.168.1.5:7860", "10.0.0.1", "[fe80::1]:7860"):
        assert accepted(EVERYWHERE, host)
    for host in ("evil.example", "192.168.1.5.evil.example", ""):
        assert not accepted(EVERYWHERE, host)
    one = Hosts.of("192.168.1.5", "music.lan")
    assert accepted(one, "music.lan:7860")
    assert accepted(one, "192.168.1.5:7860")
    assert not accepted(one, "192.168.1.6:7860")


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "http://localhost:3000", "http://localhost",
        "http://localhost:7860.evil.example", "file://", "http://127.0.0.1:7860",
        "http://music.example",
    ],
)  # fmt: skip
def test_other_origins(origin: str) -> None:
    assert not accepted(LOCAL, "localhost:7860", origin)


def test_names_of_a_proxy() -> None:
    assert accepted(PROXIED, "music.example", "https://music.example")
    assert accepted(PROXIED, "127.0.0.1:7860", "https://music.example"), "it may change the host"
    assert not accepted(PROXIED, "127.0.0.1:7860", "https://evil.example")
    assert not accepted(PROXIED, "evil.example", "https://music.example")


def answers(guard: Guard, path: str, **headers: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"abc"}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": encoded}
    asyncio.run(guard(scope, receive, send))
    return sent


@pytest.mark.parametrize("started", [False, True])
def test_error_is_one_line_for_browser_and_log(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("/srv/secret\nis gone")

    first, *rest = answers(Guard(fail, None, 10, {}), "/songs/x", host="a")
    assert first["status"] == (200 if started else 500)
    assert b"secret" not in b"".join(message["body"] for message in rest)
    (record,) = caplog.records
    assert record.message == "GET '/songs/x': RuntimeError: /srv/secret is gone"


def test_answer_500_of_the_application_is_replaced() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Traceback"})

    first, second = answers(Guard(fail, None, 10, {}), "/songs/x", host="a")
    assert first["status"] == 500
    assert b"its log says why" in second["body"]


def test_host_is_checked_before_anything_else() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the application was called")

    for path in ("/", "/songs/x", "/nothing"):
        first, second = answers(Guard(fail, LOCAL, 10, {}), path, host="evil.example")
        assert first["status"] == 403
        assert b"--allow-host" in second["body"]
