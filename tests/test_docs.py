"""What README and docs tell a reader to do, done."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules import cli
from tests.test_cli import CSV, REPOSITORY, TINY

README = (REPOSITORY / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    """The Python commands of the README, in order."""
    lines = "\n".join(blocks(README, "bash")).splitlines()
    return [line.split("  #")[0] for line in lines if line.startswith("python -m")]


@pytest.mark.slow
def test_commands_of_the_readme_run(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command as it stands, but with a small model and without what needs GPUs."""
    from datamodules import convert
    from lightning_modules.tools import doctor, separate

    tools = {
        "datamodules.convert": convert.main,
        "lightning_modules.tools.doctor": doctor.main,
        "lightning_modules.tools.separate": separate.main,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    (tmp_path / "song.mp3").write_bytes(
        (musdb_root / "test/Test - Song/mixture.wav").read_bytes()
    )  # what counts is what is in it
    found = commands()
    assert len(found) >= 6
    for command in found:
        words = shlex.split(os.path.expandvars(command))[2:]
        module, arguments = words[0], words[1:]
        if module == "lightning_modules.cli":
            no_gpu = [
                word
                for word in arguments
                if not word.startswith(("--trainer.devices", "--trainer.prec"))
            ]
            logger = [] if any("--trainer.logger" in word for word in arguments) else CSV
            assert cli.main([*no_gpu, *TINY, *logger]) == 0, command
        else:
            assert tools[module](arguments) == 0, command
    assert (tmp_path / "converted/test/Test - Song/mixture.wav").is_file()
    assert (tmp_path / "separated/song/vocals.wav").is_file()


def test_files_that_the_docs_name_exist() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for config in re.findall(r"--config (\w[\w.]*\.yaml)", page.read_text()):
            known = (REPOSITORY / "configs" / config).is_file() or config.startswith("mine")
            assert known, f"{page.name}: {config}"


@pytest.mark.slow
def test_an_architecture_is_two_files(musdb_root: Path, tmp_path: Path) -> None:
    """The example of the docs, added to a copy of the project, trains and separates there."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("lightning_modules", "datamodules", "configs"):
        (copy / name).mkdir()
        for path in (REPOSITORY / name).rglob("*"):
            if path.is_file() and path.suffix in (".py", ".yaml"):
                target = copy / name / path.relative_to(REPOSITORY / name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    page = (REPOSITORY / "docs/adding_an_architecture.md").read_text()
    (module,), (config,) = blocks(page, "python"), blocks(page, "yaml")
    (copy / "lightning_modules/mine.py").write_text(module)
    (copy / "configs/mine.yaml").write_text(config)

    song = musdb_root / "test/Test - Song/mixture.wav"
    tiny = [word for word in TINY if not word.startswith("--model")]
    fit = ["-m", "lightning_modules.cli", "fit", "--config", "mine.yaml", *tiny, *CSV]
    separate = ["-m", "lightning_modules.tools.separate", str(song)]
    # No program is needed.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PATH": str(tmp_path)}
    environment["MUSDB_PATH"] = str(musdb_root)
    for arguments in (fit, [*separate, "--checkpoint", "runs/mine/checkpoints/best.ckpt"]):
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert (tmp_path / "separated/Test - Song/vocals.wav").is_file()


def test_reference_pages_show_what_the_code_says(tmp_path: Path) -> None:
    """A page of `make reference`, by its own options."""
    (line,) = re.findall(r"pdoc (.*) lightning_modules", (REPOSITORY / "Makefile").read_text())
    options = [*shlex.split(line)[:-1], str(tmp_path), "lightning_modules.separation"]
    subprocess.run([sys.executable, "-m", "pdoc", *options], check=True, timeout=120)
    page = (tmp_path / "lightning_modules/separation.html").read_text()
    assert "separate_stream" in page
    assert "Consecutive pieces of the mixture" in page
    assert "<strong>blocks" in page, "arguments are a list, not a paragraph"
