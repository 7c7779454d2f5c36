"""Published models whose files are served on this computer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.interop import download, model_store, published
from lightning_modules.interop.published import PublishedFile, PublishedModel, published_models
from tests.helpers.file_server import FileServer, serving


class Publisher:
    """Puts models on a local server, in place of those of ``published.yaml``."""

    def __init__(self, server: FileServer, store: Path) -> None:
        self.server, self.store = server, store
        self.models: dict[str, PublishedModel] = {}

    def publish(self, name: str, *files: Path, digests: bool = True, **facts: Any) -> None:
        """Publish files under the name of a published model, whose other facts are kept."""
        served = []
        for path in files:
            contents = path.read_bytes()
            self.server.files[f"/{name}/{path.name}"] = contents
            digest = hashlib.sha256(contents).hexdigest()[:8] if digests else ""
            url = f"{self.server.url}/{name}/{path.name}"
            served.append(PublishedFile(url, path.name, digest, len(contents)))
        self.models[name] = replace(published_models()[name], files=served, **facts)

    def file(self, name: str, number: int = 0) -> Path:
        """Path of a downloaded file of a model."""
        return self.store / name / self.models[name].files[number].name


@contextmanager
def publishing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Serve models; downloads go to a folder of the test."""
    monkeypatch.setenv(model_store.FOLDER_VARIABLE, str(folder / "store"))
    monkeypatch.delenv(model_store.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with serving() as server:
        publisher = Publisher(server, folder / "store")
        known = {**published_models()}
        monkeypatch.setattr(published, "published_models", lambda: {**known, **publisher.models})
        yield publisher
