"""A web server on this computer in place of the Hugging Face Hub, with its API for one user."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_token_of_me"
USER = "me"


@dataclass
class Repository:
    """A model: commits, each with the contents of all its files by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, tag or commit."""
        newest = next(reversed(self.commits), "")
        commit = {"main": newest, **self.tags}.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


@dataclass
class HubServer:
    """What the server has; may be changed between requests."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    broken_uploads: bool = False
    requests: list[str] = field(default_factory=list)


@contextmanager
def hub_serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serve on a free port; ``huggingface_hub`` uses the server, with an empty cache and a token.

    Large files are sent as Git LFS does: the Hub's newer protocol needs its storage servers.
    """
    state = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, state)

        do_POST = do_PUT = do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Read from the environment when the package is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, hub: HubServer) -> None:
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    path = unquote(urlsplit(request.path).path)
    hub.requests.append(f"{request.command} {path}")
    words = path.strip("/").split("/")
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if words[0] == "lfs":
        if hub.broken_uploads:
            return _reply(request, 400, error="the storage is out of order")
        hub.uploads[words[1]] = body
        return _reply(request, 200)
    if request.command == "GET" and words[:2] == ["api", "agent-harnesses"]:
        return _reply(request, 404)
    if words[:2] == ["api", "models"] and request.command == "GET":
        return _resolve(request, hub, [*words[2:4], "resolve", *words[5:], ""], token)
    if "resolve" in words or request.command in ("GET", "HEAD"):
        return _resolve(request, hub, words, token)
    if words == ["api", "validate-yaml"]:
        return _reply(request, 200, {"errors": [], "warnings": []})
    if token != TOKEN:
        return _reply(request, 401, error="Invalid username or password.")
    if words == ["api", "repos", "create"]:
        return _create(request, hub, json.loads(body))
    name = "/".join(words[2:4] if words[0] == "api" else words[:2]).removesuffix(".git")
    if not name.startswith(f"{USER}/"):
        return _reply(request, 403, error="you do not have the right to write")
    if "preupload" in words:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return _reply(request, 200, {"files": files})
    if words[-2:] == ["objects", "batch"]:
        objects = [
            {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        return _reply(request, 200, {"objects": objects})
    assert "commit" in words, path
    return _commit(request, hub, name, [json.loads(line) for line in body.splitlines()])


def _reply(
    request: BaseHTTPRequestHandler,
    status: int,
    content: dict[str, Any] | bytes = b"",
    error: str = "",
    **headers: str,
) -> None:
    if error:
        content = {"error": error}
        headers["X_Error_Message"] = error
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)


def _create(request: BaseHTTPRequestHandler, hub: HubServer, asked: dict[str, Any]) -> None:
    name = f"{asked['organization']}/{asked['name']}"
    if name in hub.repositories:
        return _reply(request, 409, error="You already created this model repo")
    if asked["organization"] != USER:
        error = f'You don\'t have the rights to create a model under "{asked["organization"]}"'
        return _reply(request, 403, error=error)
    hub.repositories[name] = Repository(asked["visibility"] == "private")
    return _reply(request, 200, {"url": f"{hub.url}/{name}"})


def _commit(
    request: BaseHTTPRequestHandler, hub: HubServer, name: str, entries: list[dict[str, Any]]
) -> None:
    repository = hub.repositories[name]
    newest = repository.files("main")
    files = dict(newest[1]) if newest else {}
    for entry in entries:
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = hub.uploads[value["oid"]]
    digest = hashlib.sha1(repr((len(repository.commits), files)).encode()).hexdigest()
    repository.commits[digest] = files
    _reply(request, 200, {"commitUrl": f"{hub.url}/{name}/commit/{digest}", "commitOid": digest})


def _resolve(request: BaseHTTPRequestHandler, hub: HubServer, words: list[str], token: str) -> None:
    name, file = "/".join(words[:2]), words[-1]
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and token != TOKEN):
        return _reply(request, 404 if token else 401, X_Error_Code="RepoNotFound")
    found = repository.files("/".join(words[3:-1]) or "main")
    if found is None:
        return _reply(request, 404, X_Error_Code="RevisionNotFound")
    commit, files = found
    if not file:
        return _reply(request, 200, {"id": name, "sha": commit, "siblings": []})
    if file not in files:
        return _reply(request, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
    tag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
    return _reply(request, 200, files[file], X_Repo_Commit=commit, ETag=tag)
