"""The wheel holds all that ``stemlab`` needs, and the commit that it was built from."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.checkpoints import model, save
from tests.helpers.command_line import REPOSITORY
from tests.helpers.stemlab import stemlab, write_script
from tests.helpers.tracks import write_track

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def git(*words: str, cwd: Path) -> str:
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", *settings, *words]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A wheel built from a commit of a copy of this repository, and the commit."""
    if find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("configs", "datamodules", "lightning_modules"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    (copy / ".gitignore").write_text("build\n*.egg-info\n")
    git("init", "-q", cwd=copy)
    git("add", "-A", cwd=copy)
    git("commit", "-qm", "A copy", cwd=copy)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=copy, check=True, capture_output=True
    )
    name = done.stdout.decode().splitlines()[-1]
    return folder / name, git("rev-parse", "--short", "HEAD", cwd=copy).strip()


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_config(wheel: tuple[Path, str]) -> None:
    with zipfile.ZipFile(wheel[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("configs", "datamodules", "lightning_modules")
        for path in (REPOSITORY / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".typed", ".js", ".css")
    }
    assert names == sources | {"lightning_modules/commit.txt"}


@pytest.mark.slow
def test_stemlab_of_the_wheel_runs_in_another_folder(
    wheel: tuple[Path, str], tmp_path: Path
) -> None:
    """Installed as installers do, with the libraries of this environment."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel[0]) as archive:
        archive.extractall(packages)
    (entry,) = [
        line
        for path in packages.glob("stemlab-*.dist-info/entry_points.txt")
        for line in path.read_text().splitlines()
        if "=" in line
    ]
    assert entry == "stemlab = lightning_modules.__main__:main"
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    script = write_script(environment, environment / "bin" / "python")

    def run(*words: str) -> str:
        done = stemlab(script, *words, cwd=tmp_path, PYTHONPATH="")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"(commit {wheel[1]})" in run("--version")
    assert run("separate", "--help").startswith("usage: stemlab separate ")
    assert "channels:" in run("fit", "--config", "unet/small.yaml", "--print_config")
    save(model(), tmp_path / "model.ckpt")
    write_track(tmp_path / "song", seconds=1.0)
    run("separate", "song/mixture.wav", "--checkpoint", "model.ckpt")
    assert (tmp_path / "separated/song/vocals.wav").is_file()
