"""The demo: which run it continues, and the commands that it prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from datamodules.files.find import song_name
from lightning_modules import cli
from lightning_modules.tools import demo, separate


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that demos in a temporary folder run."""
    song = tmp_path / "corpus/test/A - 1"
    song.mkdir(parents=True)
    ran: list[str] = []

    def run_cli(arguments: list[str]) -> int:
        ran.append(shlex.join(["python", "-m", "lightning_modules.cli", *arguments]))
        checkpoints = Path(arguments[arguments.index("--run_dir") + 1], "checkpoints")
        checkpoints.mkdir(exist_ok=True)
        (checkpoints / "last.ckpt").touch()
        return 0

    def run_separate(arguments: list[str]) -> int:
        ran.append(shlex.join(["python", "-m", "lightning_modules.tools.separate", *arguments]))
        output = Path(arguments[arguments.index("-o") + 1])
        (output / song_name(song / "mixture.wav")).mkdir(parents=True)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    monkeypatch.setattr("datamodules.demo.corpus.demo_corpus", lambda: tmp_path / "corpus")
    monkeypatch.setattr(cli, "main", run_cli)
    monkeypatch.setattr(separate, "main", run_separate)
    return ran


def test_commands_are_printed_as_they_run(
    commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--trainer.max_epochs=1"]) == 0
    printed = [
        line.removeprefix("--- ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("--- ")
    ]
    assert printed == commands
    assert len(commands) == 3


def test_an_unfinished_demo_is_continued_and_a_finished_one_is_not(
    commands: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as interrupted:
        interrupted.setattr(separate, "main", lambda arguments: 130)
        assert demo.main([]) == 130
    assert demo.main([]) == 0
    assert demo.main([]) == 0
    fits = [command for command in commands if "cli fit" in command]
    first = tmp_path.resolve() / "runs/demo"
    assert f"--run_dir {first} " in fits[0]
    assert f"--run_dir {first} " in fits[1]
    assert [command.endswith("--ckpt_path auto") for command in fits] == [False, True, False]
    assert f"--run_dir {first}-2 " in fits[2]
