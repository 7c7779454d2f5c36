"""Models are published on a stand-in of the Hugging Face Hub, and loaded from it by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants

from lightning_modules.architectures.unet import UNet
from lightning_modules.base.description import CARD, CONFIG, WEIGHTS, CheckpointError
from lightning_modules.checkpoints.hub_folder import write_folder
from lightning_modules.checkpoints.loading import from_pretrained, load_separator
from lightning_modules.interop import hub
from lightning_modules.interop.download import DownloadError, UnreachableError
from lightning_modules.interop.fine_tuning import load_pretrained
from lightning_modules.interop.hub import HubModel, find
from lightning_modules.interop.model_card import Training, write_card
from lightning_modules.tools import push, separate
from tests.helpers.checkpoints import model, save
from tests.helpers.hub_server import TOKEN, HubServer, Repository, hub_serving

NAME = "me/vocals-v1.0"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_serving(tmp_path / "cache", monkeypatch) as serving:
        yield serving


def tiny(segment_seconds: float = 0.02) -> UNet:
    return model(channels=[2], n_fft=256, hop_length=128, segment_seconds=segment_seconds)


def write(folder: Path, separator: UNet) -> Path:
    """Write what ``export`` writes, without its checks."""
    write_folder(separator, folder)
    write_card(separator, folder, Training())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "folder", tiny())


def put(server: HubServer, name: str = NAME, **files: str) -> None:
    """Put a model on the server; files by the first part of their names."""
    names = {Path(file).stem: file for file in (CONFIG, WEIGHTS, CARD)}
    contents = {names[key]: text.encode() for key, text in files.items()}
    server.repositories[name] = Repository(False, {"0" * 40: contents})


def commit_of(printed: str) -> str:
    found = re.search(rf"{NAME}@([0-9a-f]{{40}})", printed)
    assert found
    return found[1]


@pytest.mark.slow
def test_round_trip_of_a_checkpoint(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tiny(), tmp_path / "best.ckpt")
    assert push.main([str(checkpoint), NAME, "--license", "mit"]) == 0
    printed = capsys.readouterr().out
    assert f"{server.url}/{NAME}: published as {NAME}@" in printed
    assert "Only you can see" in printed
    commit = commit_of(printed)
    assert server.repositories[NAME].private
    files = server.repositories[NAME].commits[commit]
    assert sorted(files) == sorted([CARD, CONFIG, WEIGHTS])
    assert f'load_separator("{NAME}")' in files[CARD].decode()
    assert "license: mit" in files[CARD].decode()

    mixture, original = 0.1 * torch.randn(1, 2, 4000), load_separator(checkpoint)
    for name in (NAME, f"{NAME}@main", f"{NAME}@{commit}", f"hf://{NAME}"):
        with torch.no_grad():
            assert torch.equal(from_pretrained(name)(mixture), original(mixture))
    assert f"Downloading {NAME}@{commit}" in capsys.readouterr().err
    gets = [each for each in server.requests if each.startswith("GET") and WEIGHTS in each]
    assert len(gets) == 1, "weights are downloaded once"

    fine_tuned = tiny()
    assert not load_pretrained(fine_tuned, Path(NAME)).random
    song = tmp_path / "song.wav"
    soundfile.write(song, 0.1 * np.random.default_rng(0).normal(size=(4000, 2)), 44100)
    words = [str(song), "--model", NAME, "-o", str(tmp_path / "stems")]
    assert separate.main(words) == 0
    assert (tmp_path / "stems/song/vocals.wav").is_file()


def test_an_update_is_another_revision(
    server: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push.main([str(folder), NAME, "--public"]) == 0
    first = capsys.readouterr().out
    assert "Only you" not in first
    assert not server.repositories[NAME].private
    write(folder, tiny(segment_seconds=0.04))
    assert push.main([str(folder), NAME]) == 2
    assert "exists already; give another name, or --update" in capsys.readouterr().err
    assert push.main([str(folder), NAME, "--update"]) == 0
    server.repositories[NAME].tags["v1"] = commit_of(first)
    assert load_separator(NAME).segment_seconds == 0.04
    assert load_separator(f"{NAME}@v1").segment_seconds == 0.02
    assert load_separator(f"{NAME}@{commit_of(first)}").segment_seconds == 0.02


def test_an_error_of_the_storage_servers(
    server: HubServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The stand-in has none of those that the Hub uses for large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert push.main([str(folder), NAME]) == 2
    assert f"error: {NAME}: the upload broke off (" in capsys.readouterr().err


def test_an_interrupted_first_upload_is_repeated(
    server: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.broken_uploads = True
    assert push.main([str(folder), NAME]) == 2
    error = capsys.readouterr().err
    assert f"error: {NAME}: the upload broke off (" in error
    assert "the storage is out of order" in error
    server.broken_uploads = False
    assert push.main([str(folder), NAME]) == 0, "the model is there, but empty"


def test_all_files_of_a_folder_are_published(
    server: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "picture.png").write_bytes(b"picture")
    (folder / ".secret").write_text("secret")
    (folder / CARD).write_text((folder / CARD).read_text() + "\nMine.\n")
    assert push.main([str(folder), NAME]) == 0
    files = server.repositories[NAME].commits[commit_of(capsys.readouterr().out)]
    assert sorted(files) == sorted([CARD, CONFIG, WEIGHTS, "picture.png"])
    assert files[CARD].endswith(b"\nMine.\n")
    assert hub.PLACEHOLDER in (folder / CARD).read_text()
    assert push.main([str(folder), NAME, "--update", "--license", "mit"]) == 2
    assert "--license: " in capsys.readouterr().err
    (folder / CARD).unlink()
    assert push.main([str(folder), NAME, "--update"]) == 2
    assert "has no README.md" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("vocals", TOKEN, "give the name of the model on the Hub as user/name"),
        ("me/a--b", TOKEN, "give the name of the model on the Hub as user/name"),
        (NAME, None, "you are not logged in to the Hugging Face Hub"),
        (NAME, "hf_old", "the Hub does not accept the token"),
        ("you/vocals", TOKEN, "you have no right to write to it (You don't have the rights"),
        ("you/taken", TOKEN, "exists already; give another name"),
    ],
)
def test_refused_publications(
    name: str,
    token: str | None,
    said: str,
    server: HubServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(server, "you/taken", config="{}", model="")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
    assert push.main([str(folder), name]) == 2
    error = capsys.readouterr().err
    assert f"error: {name}: " in error or token is None
    assert said in error
    assert list(server.repositories) == ["you/taken"]


def test_no_network(
    server: HubServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert push.main([str(folder), NAME]) == 0
    load_separator(NAME)
    capsys.readouterr()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    load_separator(NAME)  # of the cache
    with pytest.raises(UnreachableError, match="is not on this computer") as unreachable:
        load_separator("me/other")
    assert f"copy {CONFIG} and {WEIGHTS} of http://127.0.0.1:1/me/other/tree/main to a folder" in (
        str(unreachable.value)
    )
    assert push.main([str(folder), "me/other"]) == 2
    assert "me/other: the Hub cannot be reached (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("me/gone", DownloadError, r"no such model at http.*/me/gone, or it is private"),
        ("me/secret", DownloadError, r"or it is private: check the name, or log in"),
        (f"{NAME}@v9", DownloadError, r"has no revision v9; http.*/commits/main lists them"),
        ("me/text", CheckpointError, r"not a model of this project: its config.json has no class_"),
        ("me/empty", CheckpointError, r"config.json and model.safetensors were expected"),
    ],
)
def test_models_that_cannot_be_loaded(
    name: str,
    kind: type[Exception],
    said: str,
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(server, config="{}", model="")
    put(server, "me/text", config=json.dumps({"model_type": "bert"}), model="")
    put(server, "me/empty", README="")
    server.repositories["me/secret"] = Repository(True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(kind, match=said):
        load_separator(name)
    assert not any(WEIGHTS in each for each in server.requests)


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert find("me/vocals") == HubModel("me/vocals")
    assert find(Path("hf://runs/vocals@v1")) == HubModel("runs/vocals", "v1")
    assert str(find("me/vocals@refs/pr/1")) == "me/vocals@refs/pr/1"
    for path in ("runs/vocals", "me/best.ckpt", "/me/vocals", "a/b/c", "vocals", "../vocals"):
        assert find(path) is None, path
