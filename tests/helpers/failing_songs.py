"""Separation that fails at one song."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_modules.inference import stem_files


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Raise an error where the song of this file name would be separated."""
    separate_file = stem_files.separate_file

    def failing(model: object, path: Path, *args: object, **keywords: object) -> object:
        if path.name == name:
            raise error
        return separate_file(model, path, *args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(stem_files, "separate_file", failing)
