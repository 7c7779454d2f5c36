"""The command ``stemlab``: subcommands, names in messages, mistakes, the current folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from datamodules import command_line
from lightning_modules import __main__, cli
from lightning_modules.commands import CLI, COMMANDS
from lightning_modules.version import commit, version
from tests.helpers.command_line import REPOSITORY, TINY
from tests.helpers.stemlab import stemlab, write_script


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after each test what ``stemlab`` changes in its process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("STEMLAB_COMMAND", "1")
    monkeypatch.setenv("PYTHONSAFEPATH", os.environ.get("PYTHONSAFEPATH", ""))


def test_every_tool_is_a_subcommand() -> None:
    modules = {command.module for command in COMMANDS.values()}
    tools = (REPOSITORY / "lightning_modules/tools").glob("[!_]*.py")
    assert {f"lightning_modules.tools.{path.stem}" for path in tools} <= modules
    fit = [name for name, command in COMMANDS.items() if command.module == CLI]
    assert tuple(fit) == cli.SUBCOMMANDS


@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name].module != CLI])
def test_usage_names_the_subcommand_or_the_module(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(COMMANDS[name].module)
    if name == "benchmark":
        monkeypatch.setattr(module, "COMMANDS", {})
    assert module.build_parser().prog == f"stemlab {name}"
    monkeypatch.delenv("STEMLAB_COMMAND")
    assert module.build_parser().prog.startswith("python -m ")


def test_help_lists_all_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert __main__.main(words) == 0
        output = capsys.readouterr().out
        assert re.findall(r"^  ([a-z_]+(?: [a-z_]+)?) +\S", output, re.MULTILINE) == [*COMMANDS]
    assert __main__.main(["import", "--help"]) == 0
    assert "import msst" in (output := capsys.readouterr().out)
    assert "separate  " not in output


def test_version_names_the_commit(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"stemlab {version()}\n"
    if (REPOSITORY / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", commit())
        assert commit() in version()


MISTAKES = [
    ("sepaate song.wav", ["unknown command 'sepaate'", "did you mean separate?"]),
    ("train --config unet", ["unknown command 'train'", "did you mean fit?"]),
    ("xyzzy", ["unknown command 'xyzzy': stemlab --help lists all"]),
    ("import", ["stemlab import: no kind given", "msst, demucs, open_unmix"]),
    ("import mst a b", ["unknown kind 'mst'", "did you mean msst?"]),
    ("separate song.wav --checkpoint x.ckpt --ouput y", ["--ouput y; did you mean --output?"]),
    ("separate gone.wav --checkpoint gone.ckpt", ["gone.ckpt"]),
    ("benchmark lader", ["'lader'", "did you mean loader?", "(stemlab benchmark --help)"]),
    ("cache clea", ["'clea'", "did you mean clear?"]),
    ("fit unet", ["unexpected argument 'unet'; did you mean --config unet?"]),
    ("fit --config unet --epoch 3", ["option --epoch; did you mean --epochs?"]),
    ("fit --config unet --traner.max_epochs=3", ["did you mean --trainer?"]),
    ("fit --config unet --lr", ["--lr: expected RATE after it"]),
    ("fit --config unet --lr --epochs 3", ["--lr: expected RATE after it"]),
    ("fit --config unet --lr 1 --model.optimizer.init_args.lr=2", ["are the same: give one"]),
    ("fit --config unet --data gone", ["'gone' is not a folder", "give --data"]),
    ("test --config unet --data.root gone", ["'gone' is not a folder", "give --data"]),
    ("fit --config unet --out a --run_dir b", ["--out and --run_dir are the same: give one"]),
]


@pytest.mark.parametrize(("typed", "words"), MISTAKES)
def test_mistake_is_answered_by_one_line(
    typed: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: object = __main__.main(typed.split())
    except SystemExit as usage:
        status = usage.code
    output, error = capsys.readouterr()
    assert (status, output) == (2, "")
    assert error.count("\n") == 1
    assert "error: " in error
    assert all(word in error for word in words), error


@pytest.mark.slow
def test_help_and_mistakes_need_no_torch(tmp_path: Path) -> None:
    lines = [*(f"{name} --help" for name in COMMANDS), *(typed for typed, _ in MISTAKES)]
    script = (
        "import sys; from lightning_modules.__main__ import main\n"
        f"for line in {['', '--version', *lines]!r}:\n"
        "    try: main(line.split())\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'scipy', 'matplotlib', 'jsonargparse'} & set(sys.modules)\n"
        "    assert not heavy, (line, heavy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)


def test_torch_is_announced_only_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    command_line.announce("Loading the model...")
    monkeypatch.delitem(sys.modules, "torch")
    assert capsys.readouterr().err == ""
    command_line.announce("Loading the model...")
    assert capsys.readouterr().err == "Loading the model...\n"


MINE = """
from lightning_modules.architectures.unet import UNet
class MyModel(UNet):
    pass
"""


@pytest.mark.slow
def test_two_ranks_in_a_folder_with_modules_of_the_same_names(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks, loader workers and scoring processes find their modules, and the folder's own classes.

    Three validation tracks on two ranks: each counts once, and no rank waits for ever. In a home
    without W&B settings, so that the run must log offline without a prompt.
    """
    for name in ("lightning_modules", "datamodules", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    for name in ("cli", "soundfile", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "mine.py").write_text(MINE)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    script, nowhere = write_script(tmp_path), str(tmp_path)  # no other program is needed
    tiny = [word for word in TINY if "devices" not in word and "workers" not in word]
    names = "[Actions - One Minute Smile, Band A - One, Band B - Two]"
    words = ["fit", "--config", "unet", "--model.class_path=mine.MyModel", *tiny, "--out", "run"]
    words += ["--trainer.devices=2", f"--data.validation_tracks={names}", "--data.num_workers=1"]
    words += ["--data", str(musdb_root)]
    done = stemlab(script, *words, cwd=tmp_path, HOME=nowhere, PATH=nowhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.startswith("Loading the model...\n")
    assert "the wrong" not in done.stdout + done.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["class_path"] == "mine.MyModel"
    assert "3 tracks" in done.stdout
    for kind in ("epoch_*", "mixture"):
        assert len(list((tmp_path / "run/scores").glob(f"{kind}/val/*.json"))) == 3
    assert "logs offline" in done.stdout
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 1
