"""The notebook is stored with its outputs and still runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.command_line import REPOSITORY

NOTEBOOK = REPOSITORY / "docs/walkthrough.ipynb"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def output_types(cell: dict[str, Any]) -> Iterator[str]:
    """Types of a cell's outputs: plots, players, printed text."""
    for output in cell["outputs"]:
        assert output["output_type"] != "error", output
        yield from output.get("data", {"printed": output.get("name")})


def test_stored_outputs_are_complete() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 600_000
    cells = code_cells(json.loads(text))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [kind for cell in cells for kind in output_types(cell)]
    assert kinds.count("image/jpeg") == 3
    assert kinds.count("text/html") == 5, "the players"
    printed = "".join(
        "".join(output["text"]) for cell in cells for output in cell["outputs"] if "text" in output
    )
    assert "ideal ratio mask" in printed
    assert not re.search(r"/(home|root|tmp|Users)/", printed), "a path of the machine it ran on"


@pytest.mark.slow
def test_it_runs(musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two training steps on the test data set: the same types of outputs as stored."""
    monkeypatch.setenv("WALKTHROUGH_STEPS", "2")
    monkeypatch.setenv("WALKTHROUGH_ROOT", str(musdb_root))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    stored = [set(output_types(cell)) for cell in code_cells(notebook)]
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=folder).execute()
    assert [set(output_types(cell)) for cell in code_cells(notebook)] == stored
    assert len(list(tmp_path.glob("stemlab-*/model.ckpt"))) == 1
