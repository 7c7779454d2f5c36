"""Random changes of checkpoints and of others' weights: an error of ours, and nothing is executed.

What once failed is kept as an ``@example``.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from lightning_modules.base.description import CONFIG, KEY, WEIGHTS, CheckpointError, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.hub_folder import write_folder
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop.fine_tuning import read_separator
from tests.helpers.checkpoints import model
from tests.helpers.configs import ROOTS, class_of
from tests.helpers.demucs_package import network
from tests.helpers.fuzzing import fuzzed
from tests.helpers.open_unmix_package import package_networks, write

_STARTED = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn"}
_CHANGED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}
_events: list[str] | None = None  # while a file is loaded


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event in _STARTED | _CHANGED or (event == "open" and _writes(arguments)):
        _events.append(f"{event} {arguments}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


sys.addaudithook(_listen)


@contextmanager
def nothing_is_executed() -> Iterator[None]:
    """Fail if a process is started or a file written within the context."""
    global _events
    _events = []
    try:
        yield
    finally:
        found, _events = _events, None
    assert not found


def load(read: Callable[[Path], SourceSeparator], path: Path) -> None:
    message = str(path)
    with nothing_is_executed():
        try:
            read(path)
        except CheckpointError as error:
            message = str(error)
    assert message.startswith(str(path))
    assert message.isprintable()


NUMBERS = [-(2**63), -1, 0, 1, 2, 3, 7, 64, 2**20, 2**31, 2**63, 10**30, True, -0.5, 0.0, 1e-300,
           0.5, 1e9, 1e308, float("inf"), float("nan")]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from([*NUMBERS, None, "", "x", "/../evil", "\x1b[2J", "9" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=8,
)
# Position from 0 to 1, and what is put there.
BYTES = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=6)


def change(content: bytes, changes: list[tuple[float, bytes]]) -> bytes:
    """Overwrite bytes at relative positions; nothing deletes the byte there."""
    for place, new in changes:
        at = min(int(place * len(content)), len(content) - 1)
        content = content[:at] + new + content[at + max(1, len(new)) :]
    return content


@cache
def original(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    torch.manual_seed(0)
    kind: Any = class_of(name)
    sources = ["music"] if name == "denoising_autoencoder" else ["vocals", "rest"]
    built = kind(sources, **kind.tiny)
    return describe(built), built.state_dict()


def descriptions(name: str, names: list[str], value: Any) -> dict[str, Any]:
    """A description of which one value is replaced, found by a path of keys."""
    description = {**original(name)[0], "init_args": dict(original(name)[0]["init_args"])}
    part: Any = description
    for key in names[:-1]:
        part = part[key]
    part[names[-1]] = value
    return description


@st.composite
def changed_description(draw: Any) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(ROOTS))
    arguments = sorted(original(name)[0]["init_args"])
    names = draw(
        st.sampled_from([["class_path"], ["init_args"], *(["init_args", a] for a in arguments)])
    )
    return name, descriptions(name, names, draw(VALUES))


def check_description(changed: tuple[str, dict[str, Any]], folder: Path) -> None:
    path = folder / "b.ckpt"
    torch.save({KEY: changed[1], "state_dict": original(changed[0])[1]}, path)
    load(load_separator, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files of each format."""
    folder = tmp_path_factory.mktemp("valid")
    unet = model()
    torch.save({KEY: describe(unet), "state_dict": unet.state_dict()}, folder / "a.ckpt")
    write_folder(unet, folder / "hub")
    torch.save({"kwargs": {"samplerate": 44100}, "state": network().state_dict()}, folder / "a.th")
    (folder / "umx").mkdir()
    write(package_networks(["vocals"]), folder / "umx", nhop=256)
    return folder


FILES = {
    "checkpoint": ("a.ckpt", "a.ckpt"),
    "config": ("hub", f"hub/{CONFIG}"),
    "safetensors": ("hub", f"hub/{WEIGHTS}"),
    "demucs": ("a.th", "a.th"),
    "open_unmix": ("umx", "umx/vocals.pth"),
    "settings": ("umx", "umx/separator.json"),
}


def check_bytes(kind: str, changes: list[tuple[float, bytes]], folder: Path) -> None:
    """Change bytes of a file; in an archive, of the pickle, with valid checksums."""
    loaded, name = FILES[kind]
    here = folder / "changed"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    copy = shutil.copytree if (folder / loaded).is_dir() else shutil.copy
    copy(folder / loaded, here / loaded)
    path = here / name
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(folder / name) as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                part = old.read(info)
                pickled = info.filename.endswith("data.pkl")
                new.writestr(info.filename, change(part, changes) if pickled else part)
    elif kind == "safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(change(content[:end], changes) + content[end:])
    else:
        path.write_bytes(change(content, changes))
    load(read_separator, here / loaded)


@pytest.mark.slow
@given(changed_description())
@example(("unet", descriptions("unet", ["init_args", "sources"], ["/../evil", "b"])))
@fuzzed(30, list(HealthCheck))
def test_changed_descriptions(folder: Path, changed: tuple[str, dict[str, Any]]) -> None:
    check_description(changed, folder)


@pytest.mark.slow
@given(changed_description())
@fuzzed(400, list(HealthCheck))
def test_many_changed_descriptions(folder: Path, changed: tuple[str, dict[str, Any]]) -> None:
    check_description(changed, folder)


@given(st.sampled_from(sorted(FILES)), BYTES)
@fuzzed(40, list(HealthCheck))
def test_changed_bytes(folder: Path, kind: str, changes: list[tuple[float, bytes]]) -> None:
    check_bytes(kind, changes, folder)


@pytest.mark.slow
@given(st.sampled_from(sorted(FILES)), BYTES)
@fuzzed(500, list(HealthCheck))
def test_many_changed_bytes(folder: Path, kind: str, changes: list[tuple[float, bytes]]) -> None:
    check_bytes(kind, changes, folder)


@pytest.mark.slow
@given(VALUES, st.sampled_from(["kwargs", "samplerate", "sources", "resample", "state"]))
@fuzzed(25, list(HealthCheck))
def test_changed_arguments_of_demucs(folder: Path, value: Any, name: str) -> None:
    state = torch.load(folder / "a.th", weights_only=True)["state"]
    contents: dict[str, Any] = {"kwargs": {}, "state": state}
    (contents if name in contents else contents["kwargs"])[name] = value
    torch.save(contents, folder / "b.th")
    load(read_separator, folder / "b.th")


@pytest.mark.slow
def test_the_files_are_valid_before_they_are_changed(folder: Path) -> None:
    for loaded, _ in FILES.values():
        with nothing_is_executed():
            read_separator(folder / loaded)
    for name in ROOTS:
        torch.save({KEY: original(name)[0], "state_dict": original(name)[1]}, folder / "b.ckpt")
        load_separator(folder / "b.ckpt")


def test_what_is_executed_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), nothing_is_executed():
        (tmp_path / "evil").write_text("")
