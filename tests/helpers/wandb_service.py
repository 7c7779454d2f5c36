"""A local stand-in for the GraphQL service of Weights & Biases.

It answers queries of wandb's client with the fields that the client reads.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Service(BaseHTTPRequestHandler):
    """Accepts any login; a subclass has a method `answer_<operation>` for each query.

    Attributes:
        asked: Received queries with their variables.
    """

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":  # usage statistics
            return self.answer(404, {})
        request = json.loads(body)
        (operation,) = re.findall(r"^\s*(?:query|mutation) (\w+)", request["query"], re.MULTILINE)
        variables = request.get("variables") or {}
        self.asked.append({"operation": operation, **variables})
        self.answer(200, {"data": getattr(self, f"answer_{operation}")(variables)})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}, "defaultEntity": {"name": "me"}}}

    answer_GetDefaultEntity = answer_Viewer

    def log_message(self, *_: Any) -> None:
        """Do not log."""


@contextmanager
def serving(kind: type[Service]) -> Iterator[dict[str, str]]:
    """Serve in a thread.

    Args:
        kind: The service.

    Yields:
        Environment variables for its clients.
    """
    kind.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "WANDB_API_KEY": "k" * 40,
            "WANDB_ERROR_REPORTING": "false",
        }
    finally:
        server.shutdown()
        server.server_close()
