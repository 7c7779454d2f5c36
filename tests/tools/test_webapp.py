"""The web app's command line; the app itself is tested in tests/webapp."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from lightning_modules.tools import webapp
from tests.helpers.checkpoints import save
from tests.helpers.webapp import tiny


def test_mistakes_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(save(tiny(), tmp_path / "model.ckpt"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            ([str(tmp_path / "gone.ckpt")], ["gone.ckpt", "model.ckpt"]),
            ([checkpoint, "--queue", "0"], ["--queue is 0", "from 1 on"]),
            ([checkpoint, "--jobs", "0"], ["--jobs is 0"]),
            ([checkpoint, "--port", "70000"], ["--port is 70000", "0 to 65535"]),
            ([checkpoint, "--port", port], [f"--port {port}: cannot listen there", "in use"]),
            ([checkpoint, "--host", "nowhere.invalid"], ["--host nowhere.invalid"]),
            ([checkpoint, "--max-minutes", "0"], ["--max-minutes is 0"]),
            ([checkpoint, "--max-mb", "-1"], ["--max-mb is -1"]),
            ([checkpoint, "--keep-minutes", "nan"], ["--keep-minutes is nan"]),
        ]
        for arguments, words in cases:
            assert webapp.main(["--checkpoint", *arguments]) == 2, arguments
            (error,) = capsys.readouterr().err.strip().splitlines()
            assert error.startswith("error: "), error
            assert all(word in error for word in words), error
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else find_spec(name)
    )
    assert webapp.main(["--checkpoint", checkpoint]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.endswith("pip install gradio")
