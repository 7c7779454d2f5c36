from __future__ import annotations

import subprocess
import sys

import pytest

from datamodules.tables import format_table


def test_layout_of_a_table() -> None:
    rows = [
        ["vocals", "1.23", "[red]", "-"],
        ["日本", "12.30", ":smile:", "4"],
        None,
        ["", "", "", ""],
    ]
    assert format_table(["", "SDR", "dB\nSIR", "note"], rows, labels=1).splitlines() == [
        "────────────────────────────",
        "                    dB",
        "          SDR      SIR  note",
        "────────────────────────────",
        "vocals   1.23    [red]     -",
        "日本    12.30  :smile:     4",
        "────────────────────────────",
        "",
        "────────────────────────────",
    ]


def test_terminal_width_and_colour_settings_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm-256color")
    name = "x" * 300
    assert name in format_table(["name", "value"], [[name, "1"]]).splitlines()[3]
    assert "\x1b" not in format_table(["name"], [["a"]])


def test_import_needs_neither_torch_nor_rich() -> None:
    code = "import sys, datamodules.tables; assert not {'torch', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
